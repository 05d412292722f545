use super::*;

const MOST: usize = 320 << 10;

#[test]
fn the_push_fills_the_link_and_yields_when_it_queues() {
    let mut pace = Pace::default();
    assert_eq!(pace.allowed(0, Instant::default(), MOST), MOST);
    pace.contended = true;
    assert_eq!(pace.allowed(0, Instant::default(), MOST), LEAST_BACKLOG);
    let mut now = Instant::default();
    let mut round = |pace: &mut Pace, takes_ms: u64| {
        pace.pushed(now.ns() + 1, now);
        now = now + Duration::from_millis(takes_ms);
        pace.allowed(now.ns() + 1, now, MOST)
    };
    let grown = (0..8).map(|_| round(&mut pace, 2)).last();
    assert!(grown > Some(2 * LEAST_BACKLOG));
    let late_at_times = (0..32).map(|at| round(&mut pace, if at % LATELY == 0 { 2 } else { 20 })).min();
    assert!(late_at_times >= grown);
    let shrunk = (0..16).map(|_| round(&mut pace, 20)).last();
    assert_eq!(shrunk, Some(LEAST_BACKLOG));
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
