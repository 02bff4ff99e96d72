//! `state` and `list`: commands that only tell.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use nix::unistd::{Uid, User};
use serde::Serialize;

use super::lifecycle::known;
use crate::cli::{Global, Id, List, ListFormat};
use crate::state::{self, Root, State, Status};

/// `state`.
pub fn state(global: &Global, args: &Id) -> Result<(), state::Error> {
    let state = known(&Root::of(global).open(&args.id, false)?)?;
    let value = describe(&state, String::new());
    super::print(&serde_json::to_string_pretty(&value).unwrap_or_default());
    Ok(())
}

/// `list`.
pub fn list(global: &Global, args: &List) -> Result<(), state::Error> {
    let root = Root::of(global);
    let mut states = root.list()?;
    for state in states.iter_mut().filter(|state| state.changing) {
        // One that has been deleted meanwhile was there.
        if let Ok(latest) = root.open(&state.id, false).and_then(|folder| known(&folder)) {
            *state = latest;
        }
    }
    if args.quiet {
        let ids: String = states.iter().map(|state| format!("{}\n", state.id)).collect();
        super::print(&ids);
        return Ok(());
    }
    match args.format {
        ListFormat::Json if states.is_empty() => super::print("null"),
        ListFormat::Json => {
            let list: Vec<Description<'_>> =
                states.iter().map(|state| describe(state, owner(state.owner))).collect();
            super::print(&serde_json::to_string(&list).unwrap_or_default());
        }
        ListFormat::Table => super::print(&table(&states)),
    }
    Ok(())
}

fn owner(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("#{uid}"),
    }
}

/// A container in runc's words and order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Description<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'static str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    owner: String,
}

fn describe(state: &State, owner: String) -> Description<'_> {
    let status = state.status();
    Description {
        oci_version: &state.oci_version,
        id: &state.id,
        pid: pid(state, status),
        status: status.name(),
        bundle: &state.bundle,
        rootfs: &state.rootfs,
        created: &state.created,
        annotations: &state.annotations,
        owner,
    }
}

/// A stopped container has no process.
fn pid(state: &State, status: Status) -> i32 {
    if status == Status::Stopped { 0 } else { state.stand_in.pid }
}

/// Columns as text/tabwriter lays them out: at least 12 wide, three spaces between.
fn table(states: &[State]) -> String {
    let mut rows: Vec<[String; 6]> =
        vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for state in states {
        let status = state.status();
        rows.push([
            state.id.clone(),
            pid(state, status).to_string(),
            status.name().to_owned(),
            state.bundle.display().to_string(),
            state.created.clone(),
            owner(state.owner),
        ]);
    }
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let longest = rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
            let width = longest.unwrap_or(0).saturating_add(3).max(12);
            let width = if column == 5 { 0 } else { width };
            // Writing to a string does not fail.
            let _infallible = write!(text, "{cell:<width$}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_is_runc_s() {
        assert_eq!(
            table(&[]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"
        );
    }
}
