//! Mounts of a container as its configuration asks for them.

use serde_json::json;

use super::{Context, Outcome, Test, ensure};
use crate::bundle;

pub(super) const TESTS: &[Test] = &[("mounts/propagation", propagation)];

/// Prints the optional fields of mountinfo of /a, /b and /c, without numbers.
const SCRIPT: &str = r#"awk '$5 ~ /^\/[abc]$/ { printf "%s", $5; for (i = 7; $i != "-"; i++) printf " %s", $i; print "" }' /proc/self/mountinfo | sed 's/:[0-9]*/:N/' | sort"#;

/// A mount's own words; rootfsPropagation is about the host's mounts, and changes nothing inside.
fn propagation(c: &Context) -> Outcome {
    let expect = "/a\n/b shared:N\n/c unbindable\n";
    for whole in [None, Some("rshared"), Some("rprivate")] {
        let mut config = bundle::config(&["sh", "-c", SCRIPT], &[]);
        for (place, options) in
            [("/a", json!([])), ("/b", json!(["shared"])), ("/c", json!(["unbindable"]))]
        {
            let mount = json!({ "destination": place, "type": "tmpfs", "source": "tmpfs", "options": options });
            if let Some(mounts) = config["mounts"].as_array_mut() {
                mounts.push(mount);
            }
        }
        if let Some(whole) = whole {
            config["linux"]["rootfsPropagation"] = whole.into();
        }
        let name = whole.unwrap_or("none");
        let _bundle = c.bundle_with(name, &config)?;
        let done = c.run(&["run", "--bundle", &c.text_path(name), name])?;
        ensure!(done.out() == expect, "{name}: {}{}", done.out(), done.err());
    }
    let mut config = bundle::config(&["true"], &[]);
    config["linux"]["rootfsPropagation"] = "sideways".into();
    let _bundle = c.bundle_with("bad", &config)?;
    let done = c.run(&["run", "--bundle", &c.text_path("bad"), "bad"])?;
    ensure!(
        done.end.shell_status() != Some(0) && done.err().contains("sideways"),
        "{}: {}",
        done.end,
        done.err()
    );
    Ok(())
}
