//! `completions`: scripts that complete the command line in a shell, written from the command line's own description.
//!
//! After the command come its options, and the ids of the containers that there are, which `ringwall list` tells.

use std::fmt::Write;

use clap::{Arg, CommandFactory};

use crate::cli::{Cli, Shell};

/// The script.
pub fn script(shell: Shell) -> String {
    let mut cli = Cli::command();
    // Gives each its options, those of every command included.
    cli.build();
    let commands: Vec<&clap::Command> =
        cli.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    match shell {
        Shell::Bash => bash(&cli, &commands),
        Shell::Zsh => format!(
            "#compdef ringwall\nautoload -U +X bashcompinit && bashcompinit\n{}",
            bash(&cli, &commands)
        ),
        Shell::Fish => fish(&cli, &commands),
    }
}

fn options(command: &clap::Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional())
}

/// Whether it takes the id of a container that is there.
fn takes_id(command: &clap::Command) -> bool {
    let of_id = |arg: &Arg| arg.get_id() == "id";
    command.get_arguments().any(of_id) && !["create", "run"].contains(&command.get_name())
}

/// Options as they are typed.
fn words(command: &clap::Command) -> String {
    let mut words = String::new();
    for arg in options(command) {
        let short = arg.get_short().map(|short| format!("-{short} "));
        let long = arg.get_long().map(|long| format!("--{long} "));
        words.extend([short, long].into_iter().flatten());
    }
    words.trim_end().to_owned()
}

/// Those of all commands that have a value in the next word.
fn with_value(cli: &clap::Command) -> String {
    let takes = |arg: &&Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
    let long = |arg: &Arg| arg.get_long().map(|long| format!("--{long}"));
    options(cli).filter(takes).filter_map(long).collect::<Vec<_>>().join("|")
}

/// Values that an option has, where they are listed.
fn values(arg: &Arg) -> String {
    let values = arg.get_possible_values();
    let names: Vec<&str> =
        values.iter().filter(|v| !v.is_hide_set()).map(|v| v.get_name()).collect();
    // A switch has none, though the parser knows some.
    if arg.get_action().takes_values() { names.join(" ") } else { String::new() }
}

fn bash(cli: &clap::Command, commands: &[&clap::Command]) -> String {
    let names: Vec<&str> = commands.iter().map(|command| command.get_name()).collect();
    let mut text = format!(
        "_ringwall() {{\n  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= options= ids= i\n  \
         for ((i = 1; i < COMP_CWORD; i++)); do\n    case ${{COMP_WORDS[i]}} in\n      {}) ((i++)) ;;\n      -*) ;;\n      \
         *) command=${{COMP_WORDS[i]}}; break ;;\n    esac\n  done\n  case $before in\n",
        with_value(cli)
    );
    let mut listed = Vec::new();
    for arg in commands.iter().copied().chain([cli]).flat_map(options) {
        let (Some(long), values) = (arg.get_long(), values(arg)) else { continue };
        if !values.is_empty() && !listed.contains(&long) {
            listed.push(long);
            let _ = writeln!(
                text,
                "    --{long}) COMPREPLY=($(compgen -W '{values}' -- \"$word\")); return ;;"
            );
        }
    }
    text.push_str("  esac\n  case $command in\n");
    let _ = writeln!(text, "    '') options='{} {}' ;;", names.join(" "), words(cli));
    for command in commands {
        let ids = if takes_id(command) { " ids=1" } else { "" };
        let _ = writeln!(text, "    {}) options='{}'{ids} ;;", command.get_name(), words(command));
    }
    text.push_str(
        "  esac\n  if [[ $word == -* || -z $command ]]; then\n    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n  \
         elif [[ -n $ids ]]; then\n    COMPREPLY=($(compgen -W \"$(\"${COMP_WORDS[0]}\" list --quiet 2>/dev/null)\" -- \"$word\"))\n  \
         fi\n}\ncomplete -o default -F _ringwall ringwall\n",
    );
    text
}

fn fish(cli: &clap::Command, commands: &[&clap::Command]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let about = |text: Option<&clap::builder::StyledStr>| {
        quoted(text.map(ToString::to_string).unwrap_or_default().lines().next().unwrap_or_default())
    };
    let mut text = String::new();
    let mut option = |condition: &str, arg: &Arg| {
        text.push_str("complete -c ringwall -f");
        if !condition.is_empty() {
            let _ = write!(text, " -n {}", quoted(condition));
        }
        if let Some(short) = arg.get_short() {
            let _ = write!(text, " -s {short}");
        }
        if let Some(long) = arg.get_long() {
            let _ = write!(text, " -l {long}");
        }
        if arg.get_action().takes_values() {
            let values = values(arg);
            // A file, where nothing is listed.
            text.push_str(if values.is_empty() { " -r -F" } else { " -r" });
            if !values.is_empty() {
                let _ = write!(text, " -a {}", quoted(&values));
            }
        }
        let _ = writeln!(text, " -d {}", about(arg.get_help()));
    };
    for arg in options(cli) {
        option("", arg);
    }
    for command in commands {
        let of_all = |arg: &&Arg| !options(cli).any(|global| global.get_id() == arg.get_id());
        for arg in options(command).filter(of_all) {
            option(&format!("__fish_seen_subcommand_from {}", command.get_name()), arg);
        }
    }
    for command in commands {
        let (name, about) = (command.get_name(), about(command.get_about()));
        let _ =
            writeln!(text, "complete -c ringwall -f -n __fish_use_subcommand -a {name} -d {about}");
        if takes_id(command) {
            let _ = writeln!(
                text,
                "complete -c ringwall -f -n '__fish_seen_subcommand_from {name}' -a '(ringwall list --quiet 2>/dev/null)'"
            );
        }
    }
    text
}
