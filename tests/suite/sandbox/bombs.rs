//! Components that take too much before anybody calls them: what they declare, and what they do while they are
//! started. Each is an honest component with a core module more, written byte by byte, because no compiler makes
//! such a thing. Whatever it is, it is refused when it is loaded, and the others go on.

use std::{sync::Arc, time::Duration};

use super::{Sandbox, component, quick};

/// A number as WebAssembly writes it.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], number(content.len()), content.to_vec()].concat()
}

/// A core module of these sections.
fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

/// A table of so many functions, or more.
fn table(elements: usize) -> Vec<u8> {
    section(4, &[vec![1, 0x70, 0], number(elements)].concat())
}

/// A memory of so many pages, or more.
fn memory(pages: usize) -> Vec<u8> {
    section(5, &[vec![1, 0], number(pages)].concat())
}

/// What is done when it is started: again and again.
fn for_ever(sections: Vec<u8>, instructions: &[u8]) -> Vec<u8> {
    let body = [&[0, 0x03, 0x40], instructions, &[0x0c, 0, 0x0b, 0x0b]].concat();
    let code = [vec![1], number(body.len()), body].concat();
    let (kind, function) = (section(1, &[1, 0x60, 0, 0]), section(3, &[1, 0]));
    module(&[kind, function, sections, section(8, &[0]), section(10, &code)])
}

/// The honest component, with so many instances of a module more.
fn with(module: &[u8], instances: usize) -> Arc<[u8]> {
    let honest = component();
    let mut modules = 0_usize;
    let mut rest = &honest[8..];
    while let Some((&id, after)) = rest.split_first() {
        modules += usize::from(id == 1);
        let (mut length, mut shift, mut at) = (0_usize, 0, 0);
        loop {
            length |= usize::from(after[at] & 0x7f) << shift;
            shift += 7;
            at += 1;
            if after[at - 1] & 0x80 == 0 {
                break;
            }
        }
        rest = &after[at + length..];
    }
    let each = [vec![0], number(modules), vec![0]].concat();
    let all = [number(instances), each.repeat(instances)].concat();
    [honest.to_vec(), section(1, module), section(2, &all)].concat().into()
}

async fn refused(sandbox: &Sandbox, module: &[u8], instances: usize) -> String {
    let bomb = with(module, instances);
    let before = sandbox.host.computed();
    let loaded = sandbox.load_component("hostile", bomb, &[("behave", "honest")], "", quick()).await;
    let error = loaded.map(drop).unwrap_err();
    assert_eq!(error.subject, "backend hostile");
    let spent = sandbox.host.computed() - before;
    assert!(spent < Duration::from_millis(400), "{error}: it computed for {spent:?}");
    sandbox.neighbour_is_well().await;
    error.message
}

#[tokio::test]
async fn one_instance_more_is_harmless() {
    let sandbox = Sandbox::new();
    let more = with(&module(&[table(10), memory(1)]), 1);
    sandbox.load_component("hostile", more, &[("behave", "honest")], "", quick()).await.unwrap();
}

#[tokio::test]
async fn what_is_declared_too_large_is_refused_by_name() {
    let sandbox = Sandbox::new();
    for (module, instances, word) in [
        (module(&[table(1_000_000)]), 1, "table"),
        (module(&[table(100)]), 20, "table"),
        (module(&[memory(65_536)]), 1, "memory"),
        (module(&[memory(1)]), 10, "memor"),
        (module(&[]), 1_000, "instances"),
    ] {
        let told = refused(&sandbox, &module, instances).await;
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[tokio::test]
async fn what_grows_while_it_is_started_meets_its_limits() {
    let sandbox = Sandbox::new();
    let number = |value: u32| number(usize::try_from(value).unwrap());
    // ref.null func, i32.const, table.grow, drop
    let grow = |by: u32| [&[0xd0, 0x70, 0x41][..], &number(by), &[0xfc, 0x0f, 0, 0x1a]].concat();
    let told = refused(&sandbox, &for_ever(table(1), &grow(1_000_000)), 1).await;
    assert!(told.contains("a table of 1000001 elements") && told.contains("the limit is"), "{told}");
    // In small steps it grows as far as a table does, and then loops.
    let told = refused(&sandbox, &for_ever(table(1), &grow(1_000)), 1).await;
    assert!(told.contains("table") || told.contains("computes for too long"), "{told}");
    // i32.const, memory.grow, drop
    let grow = [&[0x41][..], &number(16), &[0x40, 0, 0x1a]].concat();
    let told = refused(&sandbox, &for_ever(memory(1), &grow), 1).await;
    assert!(told.contains("MiB of memory") && told.contains("its limit is 64 MiB"), "{told}");
}

#[tokio::test]
async fn a_loop_at_the_start_is_stopped() {
    let sandbox = Sandbox::new();
    let told = refused(&sandbox, &for_ever(Vec::new(), &[]), 1).await;
    assert!(told.contains("computes for too long"), "{told}");
}

#[tokio::test]
async fn a_component_that_was_cut_or_changed_is_refused() {
    let sandbox = Sandbox::new();
    let honest = component();
    let mut flipped = honest.to_vec();
    let middle = flipped.len() / 2;
    // No byte of it means what it meant.
    flipped[middle..].iter_mut().for_each(|byte| *byte = !*byte);
    for bad in [honest[..middle].to_vec(), flipped, b"\0asm\x0d\0\x01\0".to_vec(), Vec::new()] {
        let loaded = sandbox.load_component("hostile", bad.into(), &[], "", quick()).await;
        let error = loaded.map(drop).unwrap_err();
        assert!(error.message.contains("component"), "{error}");
    }
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_manifest_that_asks_for_what_the_component_cannot_use_is_refused() {
    let sandbox = Sandbox::new();
    let local = kato_plugin_host::embedded::component("local").unwrap();
    let (own, asked) = (&br#"connections = ["directory", "file"]"#[..], &br#"commands = ["rm"]"#[..]);
    let mut greedy = local.to_vec();
    for at in (0..local.len() - own.len()).filter(|&at| local[at..].starts_with(own)) {
        greedy[at..at + own.len()].fill(b' ');
        greedy[at..at + asked.len()].copy_from_slice(asked);
    }
    let loaded = sandbox.load_component("hostile", greedy.into(), &[], "", quick()).await;
    let told = loaded.map(drop).unwrap_err().message;
    assert!(told.contains("asks for commands") && told.contains("does not import"), "{told}");
    sandbox.neighbour_is_well().await;
}
