//! The same bytes without anything of ours: the program in `tests/native`, and `cp`. And what either side costs: the wall
//! clock, and the CPU of the processes that do the work.

use std::{
    collections::HashMap,
    env, fs,
    ops::Add,
    path::{Path, PathBuf},
    process::Command,
};

use kato_tests::{
    aws::{Aws, REGION},
    machine::Machine,
};

use crate::{
    Fallible,
    clock::once,
    daemon::{program, run},
};

/// How many ticks of its clock for accounts the kernel counts in a second.
const TICKS: f64 = 100.0;

/// What some work cost, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) wall: f64,
    pub(super) cpu: f64,
}

/// Seconds of CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpu(f64);

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

/// Does it and tells what it cost those whose accounts are read before and after.
pub(super) fn measured(
    account: impl Fn() -> Fallible<Cpu>,
    work: impl FnOnce() -> Fallible,
) -> Fallible<Cost> {
    let before = account()?;
    let ((), wall) = once(work)?;
    Ok(Cost { wall: wall.as_secs_f64(), cpu: account()?.0 - before.0 })
}

/// What a process and everything beneath it have used: those that run, and those that were waited for.
pub(super) fn cpu_of(process: u32) -> Fallible<Cpu> {
    let processes = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        // One that ended meanwhile was waited for, and is in its parent's account.
        Some((number, Account::of(&format!("/proc/{number}/stat")).ok()?))
    });
    let mut left: HashMap<u32, Account> = processes.collect();
    let (mut used, mut tree) = (Cpu(0.0), vec![process]);
    while let Some(process) = tree.pop() {
        tree.extend(left.iter().filter(|(_, account)| account.parent == process).map(|(child, _)| *child));
        used = left.remove(&process).map_or(used, |account| used + account.own + account.children);
    }
    Ok(used)
}

/// What those that we waited for have used.
pub(super) fn cost_of_children() -> Fallible<Cpu> {
    Ok(Account::of("/proc/self/stat")?.children)
}

/// A process's accounts.
struct Account {
    parent: u32,
    own: Cpu,
    /// Of those that it waited for.
    children: Cpu,
}

impl Account {
    fn of(path: &str) -> Fallible<Self> {
        /// Where they stand, behind the process's name.
        const PARENT: usize = 1;
        const FIRST: usize = 11;
        let text = fs::read_to_string(path)?;
        let (_, behind) = text.rsplit_once(')').ok_or("a process without a name")?;
        let ticks: Vec<f64> =
            behind.split_whitespace().skip(FIRST).take(4).map(str::parse).collect::<Result<_, _>>()?;
        let [user, system, children_user, children_system] = *ticks else {
            return Err("a process without accounts".into());
        };
        let parent = behind.split_whitespace().nth(PARENT).ok_or("a process without a parent")?.parse()?;
        let cpu = |user: f64, system: f64| Cpu((user + system) / TICKS);
        Ok(Self { parent, own: cpu(user, system), children: cpu(children_user, children_system) })
    }
}

/// Has everything read from the disk again.
pub(super) fn forget_caches() -> Fallible {
    run(&mut program("sync"))?;
    Ok(fs::write("/proc/sys/vm/drop_caches", "1")?)
}

/// Copies an image as a person with a shell would, until it lasts.
pub(super) fn copy(image: &Path, target: &Path) -> Fallible {
    run(program("cp").args(["--sparse=always", "--reflink=never"]).arg(image).arg(target))?;
    run(program("sync").arg(target)).map(drop)
}

/// The program.
#[derive(Debug)]
pub(super) struct Native {
    binary: PathBuf,
}

impl Native {
    /// `cargo xtask bench` puts it there.
    pub(super) fn find() -> Fallible<Self> {
        let us = env::current_exe()?;
        let target = us.ancestors().nth(3).ok_or("we are nowhere")?;
        let binary = target.join("native/release/native-ebs");
        match binary.is_file() {
            true => Ok(Self { binary }),
            false => {
                Err(format!("{} is not built: `cargo xtask bench ebs` does that", binary.display()).into())
            }
        }
    }

    pub(super) fn put(&self, machine: &Machine, aws: &Aws, image: &Path) -> Fallible {
        run(self.command(machine, aws).args(["put", &aws.endpoint()]).arg(image)).map(drop)
    }

    pub(super) fn get(&self, machine: &Machine, aws: &Aws, snapshot: &str, target: &Path) -> Fallible {
        run(self.command(machine, aws).args(["get", &aws.endpoint(), snapshot]).arg(target)).map(drop)
    }

    fn command(&self, machine: &Machine, aws: &Aws) -> Command {
        let keys = aws.credentials();
        let mut command = machine.command(&self.binary);
        command.env("AWS_ACCESS_KEY_ID", keys.access_key_id);
        command.env("AWS_SECRET_ACCESS_KEY", keys.secret_access_key);
        command.env("AWS_REGION", REGION);
        command
    }
}
