//! What is done to the hall while it is stopped: one story for each verb, and the ones in which two wishes meet. To tell a
//! story is to test it: each is stopped before and after every port call, with what `crash.rs` does to it then.

mod attachments;
mod copies;
mod deletes;
pub(super) mod groups;
mod mounts;
mod moves;
mod volumes;

use std::{pin::Pin, sync::Arc};

use kato_orchestrator::ports::backend::Cutting;

use super::town::{Nature, Teller};

pub(super) type Told = Pin<Box<dyn Future<Output = ()>>>;

const ATTACHES: Nature = Nature { attaches: true, ..Nature::PLAIN };
const POLLED: Nature = Nature { attaches: true, polls: true, ..Nature::PLAIN };
const FENCES: Nature = Nature { attaches: true, fences: true, ..Nature::PLAIN };
const FENCES_BESIDE: Nature = Nature { neighbour: true, ..FENCES };
const COPIES: Nature = Nature { cutting: Cutting::Copy, ..Nature::PLAIN };
const COPIES_UNMOUNTED: Nature = Nature { cutting: Cutting::Unmounted, ..Nature::PLAIN };
const MOVES: Nature = Nature { attaches: true, ..Nature::PLAIN };
const MOVES_BY_CALLS: Nature = Nature { by_calls: (false, true), ..Nature::PLAIN };
const MOVES_BETWEEN_CALLS: Nature = Nature { by_calls: (true, true), ..Nature::PLAIN };
const MOVES_FROM_CALLS: Nature = Nature { by_calls: (true, false), attaches: true, ..Nature::PLAIN };

pub(super) struct Story {
    pub(super) name: &'static str,
    pub(super) nature: Nature,
    pub(super) tell: fn(Arc<Teller>) -> Told,
}

macro_rules! stories {
    ($($name:ident $(($nature:expr))? => |$teller:ident| $tell:block)*) => { $(
        fn $name() -> $crate::crash::stories::Story {
            $crate::crash::stories::Story {
                name: stringify!($name),
                nature: {
                    let nature = $crate::crash::town::Nature::PLAIN;
                    $(let nature = { let _ = nature; $nature };)?
                    nature
                },
                tell: |$teller| Box::pin(async move { $tell }),
            }
        }

        mod $name {
            use $crate::crash::{cut_everywhere, cut_twice, reboot_everywhere};

            #[test]
            fn converges_wherever_it_is_cut() {
                cut_everywhere(&super::$name());
            }

            #[test]
            fn converges_after_a_reboot() {
                reboot_everywhere(&super::$name());
            }

            #[test]
            fn converges_when_its_recovery_is_cut() {
                cut_twice(&super::$name());
            }
        }
    )* };
}
use stories;
