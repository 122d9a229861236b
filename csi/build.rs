//! Generates the wire's types, clients and services from `proto/csi.proto`, without any program but cargo's own.
//!
//! What may not be seen is told here, by the names of fields: whoever prints a message that has one sees `***` in its
//! place, nested or not. A field of such a name cannot be forgotten, because the list of messages is read from
//! the proto file. Maps are ordered, so that equal requests are equal bytes.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use prost_types::{DescriptorProto, FileDescriptorSet};

/// Fields that hold secrets, or may: nobody prints them.
const SECRET: &[&str] = &["secrets", "mount_flags"];

const PACKAGE: &str = "csi.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/csi.proto");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo tells where to write")?);
    let files = protox::compile(["proto/csi.proto"], ["proto"])?;
    let redacted = redacted(&files);
    write_debug(&redacted, &out.join("redacted.rs"))?;
    tonic_prost_build::configure()
        .out_dir(&out)
        .btree_map(".")
        .skip_debug(redacted.keys().map(|message| format!(".{PACKAGE}.{message}")))
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}

/// The messages with something to hide, as the proto file calls them, and all of their fields.
fn redacted(files: &FileDescriptorSet) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    let ours = files.file.iter().filter(|file| file.package() == PACKAGE);
    let mut open: Vec<(String, &DescriptorProto)> = ours
        .flat_map(|file| &file.message_type)
        .map(|message| (message.name().to_owned(), message))
        .collect();
    while let Some((path, message)) = open.pop() {
        let nested = message.nested_type.iter();
        open.extend(nested.map(|nested| (format!("{path}.{}", nested.name()), nested)));
        if message.field.iter().any(|field| SECRET.contains(&field.name())) {
            assert!(message.oneof_decl.is_empty(), "{path}: the choice has to be printed here too");
            found.insert(path, message.field.iter().map(|field| field.name().to_owned()).collect());
        }
    }
    assert!(!found.is_empty(), "no message has secrets: their fields were renamed");
    found
}

fn write_debug(messages: &BTreeMap<String, Vec<String>>, to: &Path) -> Result<(), Box<dyn Error>> {
    let mut code = String::new();
    for (message, fields) in messages {
        let (name, path) = match message.rsplit_once('.') {
            Some((outer, name)) => (name, format!("{}::{name}", snake(outer))),
            None => (message.as_str(), message.clone()),
        };
        writeln!(code, "impl ::core::fmt::Debug for {path} {{")?;
        writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
        writeln!(code, "        let mut told = f.debug_struct(\"{name}\");")?;
        for field in fields {
            match SECRET.contains(&field.as_str()) {
                true => writeln!(code, "        told.field(\"{field}\", &::core::format_args!(\"***\"));")?,
                false => writeln!(code, "        told.field(\"{field}\", &self.{field});")?,
            }
        }
        writeln!(code, "        told.finish()\n    }}\n}}")?;
    }
    Ok(fs::write(to, code)?)
}

/// The module in which the generator puts what is nested in a message: `VolumeCapability` is `volume_capability`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter == '.' {
            snake.push_str("::");
        } else if letter.is_ascii_uppercase() {
            if !snake.is_empty() && !snake.ends_with(':') {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        } else {
            snake.push(letter);
        }
    }
    snake
}
