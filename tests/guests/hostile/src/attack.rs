//! The attacks themselves, one arm each.

use std::hint::black_box;

use kato_plugin_sdk::{
    commands,
    files::{Files as _, Granted, Piece},
    log,
    types::{Beneath, Connection, Device, Error, ErrorKind, Nbd, Nfs, Pair, Pending},
    volumes::{Created, Wish},
};
use wasip2::clocks::monotonic_clock;

use crate::{honest, leak, raw, request, value};

/// The directory that the suite grants.
const DATA: Granted = Granted("data");

/// Work that takes so many polls more.
pub fn at_work(left: u8) -> Pending {
    Pending { resume: vec![left], retry_after_ms: 1000, note: format!("{left} to go") }
}

/// What `create` does.
#[expect(clippy::disallowed_methods, reason = "this guest misbehaves on purpose")]
pub fn create(configuration: &[Pair], wish: Wish) -> Result<Created, Error> {
    let size = wish.size.required_bytes.max(1);
    let mut volume = honest(&wish.token, size);
    let argument = value(configuration, "argument");
    match value(configuration, "behave") {
        "loop" => spin(),
        "recurse" => drop(black_box(recurse(black_box(1)))),
        "overrun" => drop(black_box(overrun(black_box(1)))),
        "memory" => devour(),
        "panic" => panic!("the sky is falling \u{1b}[31m"),
        "exit" => std::process::exit(3),
        "wait" => std::thread::sleep(std::time::Duration::from_secs(3600)),
        "print" => {
            for _ in 0..100_000 {
                println!("{}", "x".repeat(100));
            }
        }
        "string" => return Err(Error::internal("x".repeat(40 << 20))),
        "items" => volume.topology = vec![Pair::default(); 1_000_000],
        "flood" => {
            for number in 0..100_000 {
                log::error(format!("line {number} \u{1b}[2J\u{1b}]0;owned\u{7}\r\nforged: line"));
            }
        }
        "long-handle" => volume.handle = "h".repeat(101),
        "control-handle" => volume.handle = "vol\u{1b}[0m\0".into(),
        "small" => volume.size_bytes = size / 2,
        "large" => volume.size_bytes = u64::MAX,
        "other-token" => volume.token = Some("somebody-elses".into()),
        "same-handle" => volume.handle = "the-one-volume".into(),
        "resume" => {
            let length = argument.parse().unwrap_or(0);
            let note = String::new();
            return Ok(Created::Pending(Pending { resume: vec![0; length], retry_after_ms: 0, note }));
        }
        "for-ever" => {
            let note = "soon\u{1b}[5m".into();
            return Ok(Created::Pending(Pending { resume: vec![7], retry_after_ms: u64::MAX, note }));
        }
        "refuse" => return Err(Error::new(kind(argument), "no")),
        "throttle" => {
            let pause = argument.parse().unwrap_or(50);
            return Err(Error::new(ErrorKind::Throttled, "slow down").retry_after_ms(pause));
        }
        "write" => DATA.write(argument, b"x")?,
        "read" => drop(DATA.read(argument)?),
        "assemble" => DATA.assemble("v", ".v", &[(argument.to_owned(), Piece::Directory)])?,
        "rename" => DATA.rename("image", argument)?,
        "copy" => while !DATA.copy_tree(argument, "copy")? {},
        "remove" => while !DATA.remove_tree(argument)? {},
        "grant" => Granted(if argument == "asked" { "other" } else { "nowhere" }).write("x", b"x")?,
        "wasi-files" => {
            let read = std::fs::read_dir("/").map(Iterator::count);
            return Err(Error::internal(format!("wasi gave {read:?} and {:?}", std::env::vars().count())));
        }
        "directory" => volume.connection = Some(Connection::Directory(beneath(argument))),
        "file" => volume.connection = Some(Connection::File(beneath(argument))),
        "device" => {
            let (identity, value) = argument.split_once(' ').unwrap_or((argument, ""));
            volume.connection =
                Some(Connection::Device(Device { identity: identity.into(), value: value.into() }));
        }
        "nbd" => {
            volume.connection = Some(Connection::Nbd(Nbd { server: argument.into(), export: "x".into() }))
        }
        "nfs" => {
            let (server, path) = argument.split_once(':').unwrap_or((argument, ""));
            let options = vec!["suid".into()];
            volume.connection =
                Some(Connection::Nfs(Nfs { server: server.into(), path: path.into(), options }));
        }
        "raw" => return raw::create(argument, volume),
        "clock" => clock(argument),
        "leak" => return leak::create(configuration, volume),
        "inflate" => {
            let packed = request::fetch(argument)?;
            let length = packed.len();
            // The ten bytes before it are gzip's own.
            let whole = miniz_oxide::inflate::decompress_to_vec(packed.get(10..).unwrap_or_default());
            return Err(Error::internal(format!(
                "{length} bytes became {:?}",
                whole.map(|whole| whole.len())
            )));
        }
        "request" => {
            let answer = request::send(configuration, argument);
            if let Some((_, backwards)) = configuration.iter().find(|(key, _)| key == "dump") {
                drop(answer);
                return Err(Error::internal(format!(
                    "it is in memory {} times",
                    raw::occurrences(backwards)
                )));
            }
            if value(configuration, "refuse") == "yes" {
                return Err(Error::invalid("the cloud did not like it"));
            }
            let mut answer = answer?;
            if value(configuration, "backwards") == "yes" {
                answer = answer.chars().rev().collect();
            }
            return Err(Error::internal(format!("it answered {answer}")));
        }
        "command" => {
            let (name, rest) = argument.split_once(' ').unwrap_or((argument, ""));
            let holes: Vec<_> = rest.split(';').filter_map(|hole| hole.split_once('=')).collect();
            let output = commands::run(name, &holes)?;
            return Err(Error::internal(format!("{} {}{}", output.status, output.stdout, output.stderr)));
        }
        _ => {}
    }
    Ok(Created::Done(volume))
}

fn kind(word: &str) -> ErrorKind {
    match word {
        "invalid" => ErrorKind::InvalidArgument,
        "exists" => ErrorKind::AlreadyExists,
        "exhausted" => ErrorKind::Exhausted,
        "burnt" => ErrorKind::TokenBurnt,
        "busy" => ErrorKind::Busy,
        "unavailable" => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn beneath(path: &str) -> Beneath {
    Beneath { grant: "data".into(), path: path.into() }
}

fn spin() -> ! {
    let mut number = 0_u64;
    loop {
        number = black_box(number.wrapping_add(1));
    }
}

/// Fills the machine's stack: small frames, called through a pointer so that no loop is made of them.
fn recurse(depth: u64) -> u64 {
    let next: fn(u64) -> u64 = black_box(recurse);
    next(depth + 1).wrapping_add(depth)
}

/// Fills the stack that the language keeps in memory.
#[expect(unconditional_recursion, reason = "that is the attack")]
fn overrun(depth: u64) -> u64 {
    let frame = black_box([depth; 512]);
    overrun(black_box(depth + 1)).wrapping_add(frame[(depth % 512) as usize])
}

/// Takes `resume` for the whole truth: whatever volume it is about is the one that was made.
pub fn replay(configuration: &[Pair], wish: Wish, resume: Option<Vec<u8>>) -> Created {
    let size = wish.size.required_bytes.max(1);
    match resume.map(String::from_utf8) {
        Some(Ok(token)) => {
            let mut volume = honest(&token, size);
            if value(configuration, "argument") == "silent" {
                volume.token = None;
            }
            Created::Done(volume)
        }
        _ => Created::Pending(Pending { resume: wish.token.into_bytes(), ..at_work(0) }),
    }
}

/// Lives by the clock.
fn clock(how: &str) {
    match how {
        // A busy wait.
        "spin" => while monotonic_clock::now() > 0 {},
        // The shortest of waits, without end.
        "beat" => loop {
            monotonic_clock::subscribe_duration(1).block();
        },
        // The longest one.
        "far" => monotonic_clock::subscribe_duration(u64::MAX).block(),
        // As many at once as it is given.
        _ => loop {
            std::mem::forget(monotonic_clock::subscribe_duration(u64::MAX));
        },
    }
}

fn devour() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1 << 20]));
    }
}
