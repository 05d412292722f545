use super::*;

#[test]
fn the_push_fills_the_link_and_yields_when_it_queues() {
    let mut pace = Pace::default();
    assert_eq!(pace.allowed(0, 0), BACKLOG.1);
    pace.contended = true;
    assert_eq!(pace.allowed(0, 0), BACKLOG.0);
    let mut now = 0;
    let mut round = |pace: &mut Pace, takes: u64| {
        pace.pushed(now + 1, now);
        now += takes;
        pace.allowed(now + 1, now)
    };
    let grown = (0..8).map(|_| round(&mut pace, 2 * MS)).last();
    assert!(grown > Some(2 * BACKLOG.0));
    let late_at_times = (0..32).map(|at| round(&mut pace, if at % LATELY == 0 { 2 * MS } else { 20 * MS })).min();
    assert!(late_at_times >= grown);
    let shrunk = (0..16).map(|_| round(&mut pace, 20 * MS)).last();
    assert_eq!(shrunk, Some(BACKLOG.0));
}

#[test]
fn prepull_grows_while_neighbours_are_wanted_and_shrinks_when_not() {
    let mut prepull = Prepull::default();
    let mut gfn = 1000;
    for _ in 0..6 {
        let window = prepull.judge(Gfn(gfn));
        prepull.remember(Span { first: Gfn(gfn + 1), count: window });
        gfn += window + 1;
    }
    assert_eq!(prepull.window, NEIGHBOURS);
    assert!(prepull.hits > 0);
    for gfn in [9_000_000, 1, 5_000_000, 77, 3_000_000, 400_000] {
        prepull.judge(Gfn(gfn));
    }
    assert_eq!(prepull.window, 1);
}
