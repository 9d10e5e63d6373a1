//! Several ways to one end, tried so that one which goes nowhere does not hold up the others (after RFC 8305).
//!
//! The next way is begun when the one before has failed, or has taken too long; who arrives first has won, and the others
//! are cut. Where the first answers quickly no other is begun, so that racing costs nothing then.
//!
//! **The rule:** a way on which nobody's certificate is verified never wins against one on which it would be, only because
//! it is quicker: it is begun when all of those before it have failed, and not at all where something else than the server
//! answered on one of them.
//!
//! Bound: each way at most once, and together at most as many at a time as there are.

use crate::captive::Unreached;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What a way gets before the next one is begun beside it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Until there is an answer at all.
    pub(crate) answer: Duration,
    /// From then to the end.
    pub(crate) rest: Duration,
}

/// Whether it shows on a way who is at its other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    Verified,
    Clear,
}

/// What a way says when the other end has answered at all.
#[derive(Debug)]
pub(crate) struct Answered(watch::Sender<bool>);

impl Answered {
    pub(crate) fn say(&self) {
        self.0.send_replace(true);
    }
}

/// Tries `ways` in their order; returns the number of the first that arrived, and what it has.
///
/// # Errors
/// Why none did: what to show where the network is one that wants a person to sign in, else what is wrong with each.
pub(crate) async fn race<T, F>(
    ways: &[Trust],
    pace: Pace,
    mut begin: impl FnMut(usize, Answered) -> F,
) -> Result<(usize, T), Unreached>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Unreached>> + Send + 'static,
{
    let mut under_way = JoinSet::new();
    let mut verified = 0;
    let (mut captive, mut reasons) = (None, Vec::new());
    let mut left = ways.iter().copied().enumerate().peekable();
    let mut patience = Instant::now();
    let (_, mut answered) = watch::channel(true);
    loop {
        while left
            .next_if(|(_, trust)| *trust == Trust::Clear && captive.is_some())
            .is_some()
        {}
        let next = left.peek().map(|&(_, trust)| trust);
        let may_begin = next.is_some_and(|trust| trust == Trust::Verified || verified == 0);
        if may_begin && (under_way.is_empty() || patience <= Instant::now()) {
            if let Some((way, trust)) = left.next() {
                let (sender, receiver) = watch::channel(false);
                let going = begin(way, Answered(sender));
                under_way.spawn(async move { (way, going.await) });
                verified += usize::from(trust == Trust::Verified);
                (answered, patience) = (receiver, Instant::now() + pace.answer);
            }
            continue;
        }
        tokio::select! {
            biased;
            arrived = under_way.join_next() => match arrived {
                Some(Ok((way, Ok(arrived)))) => return Ok((way, arrived)),
                Some(Ok((way, Err(why)))) => {
                    let trust = ways.get(way).copied().unwrap_or(Trust::Clear);
                    verified -= usize::from(trust == Trust::Verified);
                    patience = Instant::now();
                    match why {
                        Unreached::Captive(advice) if trust == Trust::Verified => {
                            captive.get_or_insert(advice);
                        }
                        Unreached::Captive(advice) => reasons.push(Unreached::Captive(advice)),
                        why => reasons.push(why),
                    }
                }
                Some(Err(error)) => return Err(Unreached::Broken(format!("an attempt ended early: {error}"))),
                None => break,
            },
            true = heard(&mut answered) => patience = Instant::now() + pace.rest,
            () = sleep_until(patience), if may_begin => {}
        }
    }
    Err(match captive {
        Some(advice) => Unreached::Captive(advice),
        None => all_of(reasons),
    })
}

/// Waits until the way that was begun last has an answer; true once.
async fn heard(answered: &mut watch::Receiver<bool>) -> bool {
    match answered.changed().await {
        Ok(()) => true,
        Err(_) => std::future::pending().await,
    }
}

fn all_of(reasons: Vec<Unreached>) -> Unreached {
    let mut said: Vec<String> = Vec::new();
    for reason in reasons {
        match reason {
            Unreached::Captive(advice) => return Unreached::Captive(advice),
            Unreached::Broken(why) if !said.contains(&why) => said.push(why),
            Unreached::Broken(_) => {}
        }
    }
    Unreached::Broken(said.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const PACE: Pace = Pace {
        answer: Duration::from_millis(2_500),
        rest: Duration::from_secs(5),
    };
    const NEVER: u64 = 3_600_000;

    /// One way: when it has an answer, when it ends, and how.
    #[derive(Clone, Copy)]
    struct Way {
        trust: Trust,
        answer_ms: u64,
        end_ms: u64,
        end: Result<(), bool>,
    }

    fn arrives(answer_ms: u64, end_ms: u64) -> Way {
        Way {
            trust: Trust::Verified,
            answer_ms,
            end_ms,
            end: Ok(()),
        }
    }

    fn fails(end_ms: u64) -> Way {
        Way {
            end: Err(false),
            ..arrives(NEVER, end_ms)
        }
    }

    fn clear(way: Way) -> Way {
        Way {
            trust: Trust::Clear,
            ..way
        }
    }

    fn is_captive(way: Way) -> Way {
        Way {
            end: Err(true),
            ..way
        }
    }

    /// Who won, and which were begun when.
    async fn run(ways: &[Way]) -> (Result<(usize, u128), Unreached>, Vec<(usize, u128)>) {
        let start = Instant::now();
        let begun = Arc::new(Mutex::new(Vec::new()));
        let trusts: Vec<Trust> = ways.iter().map(|way| way.trust).collect();
        let won = race(&trusts, PACE, |number, answered| {
            let way = ways[number];
            begun.lock().unwrap().push((number, start.elapsed().as_millis()));
            async move {
                let began = Instant::now();
                if way.answer_ms < way.end_ms {
                    sleep_until(began + Duration::from_millis(way.answer_ms)).await;
                    answered.say();
                }
                sleep_until(began + Duration::from_millis(way.end_ms)).await;
                match way.end {
                    Ok(()) => Ok(()),
                    Err(true) => Err(Unreached::Captive(format!("sign in at {number}"))),
                    Err(false) => Err(Unreached::Broken(format!("{number} is broken"))),
                }
            }
        });
        let won = won.await.map(|(way, ())| (way, start.elapsed().as_millis()));
        let begun = begun.lock().unwrap().clone();
        (won, begun)
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_goes_nowhere_holds_nobody_up_and_a_quick_one_is_alone() {
        for (ways, winner, begun) in [
            // Quick, though the handshake takes a while.
            (vec![arrives(300, 4_000), arrives(1, 2)], (0, 4_000), vec![(0, 0)]),
            // Swallowed.
            (
                vec![arrives(NEVER, NEVER), arrives(300, 900)],
                (1, 3_400),
                vec![(0, 0), (1, 2_500)],
            ),
            // Answered, and then swallowed.
            (
                vec![arrives(1_000, NEVER), arrives(300, 900)],
                (1, 6_900),
                vec![(0, 0), (1, 6_000)],
            ),
            // Slow, and still the first.
            (
                vec![arrives(2_900, 3_000), arrives(300, 900)],
                (0, 3_000),
                vec![(0, 0), (1, 2_500)],
            ),
            // Refused.
            (
                vec![fails(100), fails(200), arrives(10, 20)],
                (2, 320),
                vec![(0, 0), (1, 100), (2, 300)],
            ),
        ] {
            assert_eq!(run(&ways).await, (Ok(winner), begun));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_wins_by_not_being_verified() {
        let (slow, quick) = (arrives(2_600, 9_000), clear(arrives(1, 2)));
        assert_eq!(run(&[slow, quick]).await, (Ok((0, 9_000)), vec![(0, 0)]));
        let failing = fails(9_000);
        assert_eq!(
            run(&[failing, quick]).await,
            (Ok((1, 9_002)), vec![(0, 0), (1, 9_000)])
        );
        let (lost, begun) = run(&[is_captive(fails(50)), quick, fails(70)]).await;
        assert_eq!(lost, Err(Unreached::Captive("sign in at 0".to_owned())));
        assert_eq!(begun, [(0, 0), (2, 50)], "nothing is said in the clear there");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_arrives_each_says_why() {
        let (lost, _) = run(&[fails(50), fails(60)]).await;
        assert_eq!(
            lost,
            Err(Unreached::Broken("0 is broken; 1 is broken".to_owned()))
        );
        let (lost, _) = run(&[clear(is_captive(fails(50))), fails(60)]).await;
        assert_eq!(lost, Err(Unreached::Captive("sign in at 0".to_owned())));
        assert_eq!(run(&[]).await.0, Err(Unreached::Broken(String::new())));
    }
}
