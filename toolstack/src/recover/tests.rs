use super::*;
use crate::testing::FakeStore;

const HOME: &str = "/local/domain/1/data/tsmc";

/// What `tsmc recover` says when the agent answers the one note that is kept with `state`.
fn told(way: Way, state: &str) -> (FakeStore, Xenstore, String) {
    let (agent, mut store) = FakeStore::with_agent();
    agent.set(&format!("/tool/tsmc/{way}/5"), "00ff");
    let recovering = thread::spawn(move || {
        let told = recover(&mut store, None).map_err(|refusal| refusal.to_string());
        (store, told)
    });
    let (name, request) = agent.wait_for(&format!("{HOME}/request"), &format!("{way}-5-"));
    assert_eq!(request, "recover note=00ff");
    agent.set(&format!("{HOME}/session/{name}/state"), state);
    let (store, told) = recovering.join().expect("no panic");
    (agent, store, told.expect("an answer"))
}

#[test]
fn a_guest_that_is_back_is_announced_to_xenstored() {
    let (agent, mut store, text) = told(Way::Out, "failed cause=back reason=the guest has not left: it runs here");
    assert_eq!(text, "domain 5: the guest has not left: it runs here; xenstored has been told\n");
    assert_eq!(agent.resumed(), ["5"]);
    assert_eq!(recover(&mut store, None).expect("an answer"), "nothing to recover\n");
}

#[test]
fn a_guest_whose_pages_still_follow_stays_noted() {
    let (agent, mut store, text) = told(Way::In, "running");
    assert!(text.contains("its pages follow"), "{text}");
    assert_eq!(agent.resumed(), [""; 0]);
    assert_eq!(store.read("/tool/tsmc/in/5").expect("an answer").as_deref(), Some("00ff"));
}

#[test]
fn a_migration_that_somebody_follows_is_left_to_them() {
    let (agent, mut store) = FakeStore::with_agent();
    agent.set("/tool/tsmc/out/5", "00ff");
    End::out(DomId(5)).keep(&mut store, "00ff", Process::parent(), None).expect("kept");
    let text = recover(&mut store, None).expect("an answer");
    assert_eq!(text, "domain 5: its migration is under way, and is seen to\n");
}

#[test]
fn a_guest_that_arrived_whole_is_not_taken_up_again() {
    let (agent, mut store) = FakeStore::with_agent();
    agent.set("/tool/tsmc/in/5", "00ff");
    agent.set(&format!("{HOME}/session/in-5-0a0a0a0a/note"), "00ff");
    agent.set(&format!("{HOME}/session/in-5-0a0a0a0a/state"), "complete");
    let text = recover(&mut store, None).expect("an answer");
    assert_eq!(text, "domain 5: it is here, and nothing of it is missing\n");
    assert_eq!(store.list(&format!("{HOME}/request")).expect("a list"), [""; 0]);
    assert_eq!(recover(&mut store, None).expect("an answer"), "nothing to recover\n");
}

#[test]
fn what_has_ended_is_tidied_away_and_nothing_else() {
    let (fake, mut store) = FakeStore::with_agent();
    let agent = Agent::find(&mut store).expect("an agent");
    for (way, domain, state) in [("out", 5, "complete"), ("in", 6, "running"), ("out", 7, "failed reason=x")] {
        fake.set(&format!("/tool/tsmc/{way}/{domain}"), "00ff");
        fake.set(&format!("{HOME}/session/{way}-{domain}-0a0a0a0a/note"), "00ff");
        fake.set(&format!("{HOME}/session/{way}-{domain}-0a0a0a0a/state"), state);
    }
    fake.set("/tool/tsmc/in/5", "00ff");
    tidy(&mut store, &agent).expect("tidied");
    let left: Vec<_> = kept::all(&mut store).expect("notes").into_iter().map(|(end, _)| end).collect();
    assert_eq!(left, [End::arriving(DomId(5)), End::arriving(DomId(6))]);
    // What failed is back, and can suspend again.
    assert_eq!(fake.resumed(), ["7"]);
}

#[test]
fn the_note_of_the_next_life_takes_the_place_of_the_last_one_s() {
    let (agent, mut store) = FakeStore::with_agent();
    agent.set("/tool/tsmc/in/5", "00ff");
    let recovering = thread::spawn(move || recover(&mut store, None).map(|_| store).expect("an answer"));
    let (name, _) = agent.wait_for(&format!("{HOME}/request"), "in-5-");
    agent.set(&format!("{HOME}/session/{name}/note"), "11ee");
    agent.set(&format!("{HOME}/session/{name}/state"), "running");
    let mut store = recovering.join().expect("no panic");
    assert_eq!(store.read("/tool/tsmc/in/5").expect("an answer").as_deref(), Some("11ee"));
    agent.set(&format!("{HOME}/session/{name}/state"), "complete");
    assert_eq!(recover(&mut store, None).expect("an answer"), "domain 5: it is here, and nothing of it is missing\n");
}

#[test]
fn both_ends_on_one_host_are_handed_over_before_either_is_waited_for() {
    let (agent, mut store) = FakeStore::with_agent();
    agent.set("/tool/tsmc/out/5", "00ff");
    agent.set("/tool/tsmc/in/6", "11ee");
    let recovering = thread::spawn(move || recover(&mut store, None).expect("an answer"));
    let names = ["out-5-", "in-6-"].map(|end| agent.wait_for(&format!("{HOME}/request"), end).0);
    for (name, state) in names.iter().zip(["complete", "running"]) {
        agent.set(&format!("{HOME}/session/{name}/state"), state);
    }
    let told = recovering.join().expect("no panic");
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains("domain 5: it has left") && told.contains("domain 6: it runs here"), "{told}");
}

#[test]
fn a_guest_is_discarded_if_the_agent_agrees() {
    for (state, expected) in [
        ("complete", Ok("domain 5: what was kept of it is discarded, and its memory is free again\n")),
        ("failed reason=the guest has not left this host", Err("the guest has not left this host")),
    ] {
        let (agent, mut store) = FakeStore::with_agent();
        agent.set("/tool/tsmc/out/5", "00ff");
        let discarding = thread::spawn(move || discard(&mut store, DomId(5)).map_err(|refusal| refusal.to_string()));
        let (name, request) = agent.wait_for(&format!("{HOME}/request"), "out-5-");
        assert_eq!(request, "discard domain=5");
        agent.set(&format!("{HOME}/session/{name}/state"), state);
        let said = discarding.join().expect("no panic");
        assert_eq!(said.as_deref().map_err(String::as_str), expected);
        assert_eq!(agent.has("/tool/tsmc/out/5"), expected.is_err());
    }
}

#[test]
fn what_is_over_is_forgotten() {
    let gone = "failed cause=gone reason=the guest is gone";
    for (way, state) in [(Way::Out, "complete"), (Way::In, "complete"), (Way::Out, gone), (Way::In, gone)] {
        let (agent, mut store, text) = told(way, state);
        assert!(text.starts_with("domain 5: it ") || text.contains("is left to recover"), "{text}");
        assert_eq!(agent.resumed(), [""; 0], "{state}");
        assert_eq!(kept::all(&mut store).expect("notes"), []);
    }
}

/// Whatever it says: only the cause tells that it was taken up.
#[test]
fn what_the_agent_did_not_take_up_stays_noted() {
    for state in ["failed cause=other reason=the guest is gone", "failed reason=the guest is gone"] {
        let (agent, mut store, text) = told(Way::Out, state);
        assert_eq!(text, "domain 5: the guest is gone\n");
        assert_eq!(agent.resumed(), [""; 0]);
        assert_eq!(store.read("/tool/tsmc/out/5").expect("an answer").as_deref(), Some("00ff"));
    }
}
