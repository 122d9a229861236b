//! Attacks below the language: what no safe program could say to its host. The canonical ABI takes pointers,
//! lengths and handles from the guest's memory, and believes none of them.

use std::mem::{ManuallyDrop, forget};

use kato_plugin_sdk::{
    log,
    types::{Error, Volume},
    volumes::Created,
};
use wasip2::http::types::Fields;

/// Bytes that are no text.
const NO_TEXT: [u8; 5] = [b'v', 0xff, 0xfe, 0xc0, 0x80];

pub fn create(how: &str, mut volume: Volume) -> Result<Created, Error> {
    match how {
        "handle-no-text" => volume.handle = no_text(),
        "error-no-text" => return Err(Error::internal(no_text())),
        "log-no-text" => log::error(no_text()),
        "far-text" => {
            // A megabyte at the very end of the address space, where this memory has long ended.
            let text = unsafe { String::from_raw_parts(0xffff_0000 as *mut u8, 1 << 20, 1 << 20) };
            log::error(&*ManuallyDrop::new(text));
        }
        "many-handles" => loop {
            forget(Fields::new());
        },
        "drop-twice" => {
            let fields = Fields::new();
            drop(unsafe { std::ptr::read(&fields) });
            drop(fields);
        }
        "use-after-drop" => {
            let fields = Fields::new();
            drop(unsafe { std::ptr::read(&fields) });
            drop(fields.entries());
            forget(fields);
        }
        "forged-handle" => drop(unsafe { Fields::from_handle(4321) }.entries()),
        _ => {}
    }
    Ok(Created::Done(volume))
}

fn no_text() -> String {
    unsafe { String::from_utf8_unchecked(NO_TEXT.to_vec()) }
}

/// How often a text is anywhere in this guest's memory. It is told backwards, so that asking does not put it there.
pub fn occurrences(backwards: &str) -> usize {
    let wanted: Vec<u8> = backwards.bytes().rev().map(|byte| byte ^ 0xff).collect();
    let length = core::arch::wasm32::memory_size(0) << 16;
    // Nothing is at the address zero, by everybody's agreement.
    let memory = unsafe { std::slice::from_raw_parts(std::hint::black_box(1) as *const u8, length - 1) };
    memory
        .windows(wanted.len())
        .filter(|window| window.iter().zip(&wanted).all(|(is, not)| is ^ 0xff == *not))
        .count()
}
