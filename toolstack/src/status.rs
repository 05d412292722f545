//! The output of `tsmc status`: this host's agent, its sessions and their progress.

use common::DomId;
use common::control::{Request, Size, State, Summary};
use common::cost::memory_for;
use serde_json::json;

use crate::agents::{Agent, Session, Way};
use crate::refusal::Refusal;
use crate::xenstore::Xenstore;

/// One line of the table: what the agent says about one session.
struct Row {
    id: String,
    what: String,
    state: String,
    stage: String,
    left: String,
    faults: String,
    note: String,
}

/// The agent and its sessions as text for a person.
pub fn table(store: &mut Xenstore) -> Result<String, Refusal> {
    let agent = Agent::find(store)?;
    let status = &agent.status;
    let mut out = format!(
        "agent: domain {}, version {}, {}:{}, {} KiB, features {}, network {}, {}\n",
        agent.domain,
        status.version,
        status.address,
        status.port,
        status.memory_kib,
        status.features,
        status.nic.as_ref().map_or_else(|| "unknown".into(), ToString::to_string),
        match &status.key {
            Some(key) => format!("sealed, key {}", key.fingerprint()),
            None => "PLAIN: not encrypted, not for production".into(),
        }
    );
    out.push_str(&warnings(store, &agent)?);
    let rows = rows(store, &agent)?;
    if rows.is_empty() {
        out.push_str("no sessions\n");
        return Ok(out);
    }
    out.push('\n');
    out.push_str(&line(["SESSION", "WHAT", "STATE", "STAGE", "PAGES LEFT", "FAULTS", ""]));
    for row in &rows {
        out.push_str(&line([&row.id, &row.what, &row.state, &row.stage, &row.left, &row.faults, &row.note]));
    }
    Ok(out)
}

/// A line for each guest of this host that is too large for its agent.
pub fn warnings(store: &mut Xenstore, agent: &Agent) -> Result<String, Refusal> {
    let mut out = String::new();
    for name in store.list("/local/domain")? {
        let Some(domain) = name.parse::<DomId>().ok().filter(|domain| ![DomId::DOM0, agent.domain].contains(domain))
        else {
            continue;
        };
        let memory_kib = store.read(&format!("/local/domain/{domain}/memory/static-max"))?;
        let Some(mib) = memory_kib.and_then(|text| text.parse::<u64>().ok()).map(|kib| kib.div_ceil(1024)) else {
            continue;
        };
        if mib > agent.status.largest_mib {
            out.push_str(&format!(
                "WARNING: domain {domain} has {mib} MiB, and the agent's memory is enough for guests of up to {} MiB: memory = {} in \
                 its xl.cfg would do\n",
                agent.status.largest_mib,
                memory_for(&Size::of_memory(mib), 1)
            ));
        }
    }
    Ok(out)
}

/// The same as JSON for a program: one object, every value a string as the agent wrote it.
pub fn json(store: &mut Xenstore) -> Result<String, Refusal> {
    let agent = Agent::find(store)?;
    let mut sessions = Vec::new();
    for id in agent.sessions(store)? {
        let session = Session { agent: agent.clone(), id };
        sessions.push(json!({
            "id": session.id.to_string(),
            "request": session.request(store)?.map(|request| request.to_string()),
            "state": session.state(store)?.map(|state| state.to_string()),
            "progress": session.progress(store)?.map(|progress| progress.to_string()),
            "summary": session.summary(store)?.map(|summary| summary.to_string()),
        }));
    }
    let agent = json!({ "domain": agent.domain.to_string(), "status": agent.status.to_string() });
    Ok(format!("{}\n", json!({ "agent": agent, "sessions": sessions })))
}

fn rows(store: &mut Xenstore, agent: &Agent) -> Result<Vec<Row>, Refusal> {
    let mut rows = Vec::new();
    for id in agent.sessions(store)? {
        let session = Session { agent: agent.clone(), id };
        let state = session.state(store)?;
        let progress = session.progress(store)?;
        let summary = session.summary(store)?;
        let ended = state.as_ref().is_some_and(State::is_end);
        // Only the end that the guest runs on meets faults.
        let faults = match (&summary, progress) {
            _ if session.guest().is_none_or(|(way, _)| way == Way::Out) => None,
            (Some(summary), _) => Some(summary.faults),
            (None, Some(progress)) if progress.stage == 3 => Some(progress.faults),
            _ => None,
        };
        let (stage, left) = match progress {
            _ if ended => ("-".into(), "-".into()),
            Some(progress) => {
                let percent = progress.done.saturating_mul(100).checked_div(progress.total).unwrap_or(0);
                (format!("{} ({percent} %)", progress.stage), progress.total.saturating_sub(progress.done).to_string())
            }
            None => ("-".into(), "-".into()),
        };
        rows.push(Row {
            id: session.id.to_string(),
            what: session.request(store)?.and_then(what).unwrap_or_else(|| direction(&session)),
            state: state.as_ref().map_or("asked", name).into(),
            stage,
            left,
            faults: faults.map_or_else(|| "-".into(), |faults| faults.to_string()),
            note: note(state, summary),
        });
    }
    Ok(rows)
}

/// What an operator must know of a session besides.
fn note(state: Option<State>, summary: Option<Summary>) -> String {
    match (state, summary) {
        (Some(State::Failed { reason, .. } | State::Interrupted { reason } | State::Waiting { reason }), _) => {
            reason.replace(char::is_control, " ")
        }
        (_, Some(Summary { differing: differing @ 1.., .. })) => format!(
            "WRONG MEMORY: {differing} pages are not what they were on the other host; the agent's console names them"
        ),
        (_, Some(Summary { verified: 1.., .. })) => "verified".into(),
        _ => String::new(),
    }
}

fn what(request: Request) -> Option<String> {
    match request {
        Request::Out { domain, parameters } => Some(format!("domain {domain} out ({})", parameters.mode)),
        Request::In { domain, peer, .. } => Some(format!("domain {domain} in from {}", peer.ip())),
        Request::Recover { .. } => None,
        Request::Withdraw { domain } => Some(format!("domain {domain} withdrawn")),
        Request::Discard { domain } => Some(format!("domain {domain} discarded")),
    }
}

/// What the name alone says, once the request is tidied away.
fn direction(session: &Session) -> String {
    session.guest().map_or_else(|| "-".into(), |(way, domain)| format!("domain {domain} {way}"))
}

/// A state in one word.
pub const fn name(state: &State) -> &'static str {
    match state {
        State::Waiting { .. } => "waiting",
        State::Listening { .. } => "listening",
        State::Copying => "copying",
        State::Suspend => "suspending",
        State::Committed => "committed",
        State::Built { .. } => "built",
        State::Ready => "ready",
        State::Running => "running",
        State::Complete => "complete",
        State::Interrupted { .. } => "interrupted",
        State::Failed { .. } => "failed",
    }
}

fn line(cells: [&str; 7]) -> String {
    let [id, what, state, stage, left, faults, note] = cells;
    let line = format!("{id:<16} {what:<26} {state:<12} {stage:<10} {left:>10} {faults:>7}  {note}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeStore;

    #[test]
    fn an_operator_sees_every_session() {
        let (fake, mut store) = FakeStore::with_agent();
        assert_eq!(
            table(&mut store).expect("a table"),
            "agent: domain 1, version 0.1.0, 10.77.0.11:7077, 1024 KiB, features dirty-log,paging, network pci,checksum, \
             PLAIN: not encrypted, not for production\n\
             no sessions\n"
        );
        let home = "/local/domain/1/data/tsmc";
        fake.set(&format!("{home}/request/out-5-a"), "out domain=5 mode=tsmc");
        fake.set(&format!("{home}/session/out-5-a/state"), "copying");
        fake.set(&format!("{home}/session/out-5-a/progress"), "stage=1 done=250 total=1000 bytes=1 rate_kib=2");
        fake.set(&format!("{home}/session/in-8-c/state"), "running");
        fake.set(&format!("{home}/session/in-8-c/progress"), "stage=3 done=9 total=10 bytes=1 rate_kib=2 faults=31");
        fake.set(&format!("{home}/session/in-7-b/state"), "failed reason=\"no\"\u{1b}room");
        fake.set(&format!("{home}/session/in-7-b/summary"), "faults=12");
        fake.set(&format!("{home}/session/in-9-d/state"), "complete");
        fake.set(&format!("{home}/session/in-9-d/summary"), "faults=3 verified=700 differing=2");
        let table = table(&mut store).expect("a table");
        let rows: Vec<&str> = table.lines().skip(3).collect();
        assert_eq!(
            rows[0],
            "in-7-b           domain 7 in                failed       -                   -      12  \"no\" room"
        );
        assert_eq!(rows[1], "in-8-c           domain 8 in                running      3 (90 %)            1      31");
        assert!(rows[2].starts_with("in-9-d ") && rows[2].contains("WRONG MEMORY: 2 pages"), "{}", rows[2]);
        assert_eq!(rows[3], "out-5-a          domain 5 out (tsmc)        copying      1 (25 %)          750       -");
    }

    #[test]
    fn a_program_reads_what_the_agent_wrote() {
        let (fake, mut store) = FakeStore::with_agent();
        let home = "/local/domain/1/data/tsmc";
        fake.set(&format!("{home}/session/in-7-b/state"), "failed reason=\"no\"\u{1b}\nroom");
        fake.set(&format!("{home}/session/in-7-b/summary"), "faults=12");
        let text = json(&mut store).expect("an answer");
        assert!(text.ends_with("}\n") && text.lines().count() == 1, "{text}");
        let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let session = &told["sessions"][0];
        let summary = session["summary"].as_str().and_then(|summary| summary.parse::<Summary>().ok());
        assert_eq!(summary.map(|summary| summary.faults), Some(12));
        let failed = "failed cause=other reason=\"no\"\u{1b}\nroom";
        assert_eq!(
            (&session["id"], &session["state"], &session["request"]),
            (&json!("in-7-b"), &json!(failed), &json!(null))
        );
        assert_eq!(told["agent"]["domain"], "1");
        assert!(told["agent"]["status"].as_str().is_some_and(|status| status.starts_with("ready version=")));
    }

    #[test]
    fn a_guest_that_is_too_large_for_its_agent_is_named() {
        let (fake, mut store) = FakeStore::with_agent();
        fake.set(
            "/local/domain/1/data/tsmc/agent",
            "ready version=0.1.0 address=10.77.0.11 port=7077 memory_kib=1024 largest_mib=4096 features=paging",
        );
        for (domain, mib) in [(0, 1 << 20), (1, 1 << 20), (5, 4096), (6, 65536)] {
            fake.set(&format!("/local/domain/{domain}/memory/static-max"), &(mib * 1024).to_string());
        }
        let agent = Agent::find(&mut store).expect("an agent");
        let needed = memory_for(&Size::of_memory(65536), 1);
        assert_eq!(
            warnings(&mut store, &agent).expect("an answer"),
            format!(
                "WARNING: domain 6 has 65536 MiB, and the agent's memory is enough for guests of up to 4096 MiB: memory = {needed} in \
                 its xl.cfg would do\n"
            )
        );
    }

    #[test]
    fn a_host_without_an_agent_is_told_so() {
        let (fake, mut store) = FakeStore::start();
        fake.set("/local/domain/0/name", "Domain-0");
        let refusal = table(&mut store).expect_err("no agent");
        assert_eq!(refusal.to_string(), "no migration agent on this host: no domain is named tsmc-agent");
        fake.set("/local/domain/3/name", "tsmc-agent");
        let refusal = table(&mut store).expect_err("no agent");
        assert_eq!(refusal.to_string(), "the migration agent of this host (domain 3) is not ready");
    }
}
