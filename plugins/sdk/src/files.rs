//! Work on files beneath a directory that the operator granted. Paths are relative, without `..`; the host
//! opens every step of them itself and follows no symlink.
//!
//! Logic that is to be tested takes [`Files`]; in a component that is [`Granted`], in a test it is
//! `testing::MemoryFiles`.

use crate::{
    types::{Error, ExtentPage},
    worlds::files::kato::storage::files,
};

pub use files::{Filesystem, Piece, Room, Taken};

/// What can be done with files. Every change is flushed when the call returns; see `files` in `wit/v1/host.wit`
/// for what each promises.
pub trait Files {
    /// The filesystem beneath.
    fn traits(&self) -> Result<Filesystem, Error>;
    /// How full it is.
    fn capacity(&self) -> Result<Room, Error>;
    /// Makes a file, or makes one longer, with its blocks allocated unless `thin`.
    fn allocate(&self, path: &str, length: u64, thin: bool) -> Result<(), Error>;
    /// How long a file is and what it takes; `not-found` if there is none.
    fn space(&self, path: &str) -> Result<Taken, Error>;
    /// Copies a file, sharing blocks where possible; false means call again.
    fn clone_file(&self, source: &str, to: &str, may_copy: bool) -> Result<bool, Error>;
    /// Where a file holds data, from an offset on.
    fn extents(&self, path: &str, from: u64) -> Result<ExtentPage, Error>;
    /// Where a file differs from another, from an offset on.
    fn differences(&self, base: &str, path: &str, from: u64) -> Result<ExtentPage, Error>;
    /// Copies a directory with everything that files have; false means call again.
    fn copy_tree(&self, source: &str, to: &str) -> Result<bool, Error>;
    /// Makes a directory with its entries in one stroke, put together at `by`.
    fn assemble(&self, to: &str, by: &str, pieces: &[(String, Piece)]) -> Result<(), Error>;
    /// Renames a directory to `by` and removes it there; false means call again.
    fn discard(&self, path: &str, by: &str) -> Result<bool, Error>;
    /// Removes a file or a directory; false means call again.
    fn remove_tree(&self, path: &str) -> Result<bool, Error>;
    /// Makes a directory and its parents.
    fn make_directory(&self, path: &str) -> Result<(), Error>;
    /// Renames; `already-exists` if there is something at `to`.
    fn rename(&self, source: &str, to: &str) -> Result<(), Error>;
    /// Writes a small file as a whole.
    fn write(&self, path: &str, content: &[u8]) -> Result<(), Error>;
    /// Reads a small file; nothing if there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error>;
    /// The names in a directory after `after`, sorted, at most `limit`.
    fn names(&self, path: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, Error>;
    /// Limits a directory tree to so many bytes; zero takes the limit away.
    fn set_quota(&self, path: &str, limit: u64) -> Result<(), Error>;
}

/// The directory that is granted under this name, through the host.
#[derive(Clone, Copy, Debug)]
pub struct Granted(pub &'static str);

impl Files for Granted {
    fn traits(&self) -> Result<Filesystem, Error> {
        files::traits(self.0)
    }

    fn capacity(&self) -> Result<Room, Error> {
        files::capacity(self.0)
    }

    fn allocate(&self, path: &str, length: u64, thin: bool) -> Result<(), Error> {
        files::allocate(self.0, path, length, thin)
    }

    fn space(&self, path: &str) -> Result<Taken, Error> {
        files::space(self.0, path)
    }

    fn clone_file(&self, source: &str, to: &str, may_copy: bool) -> Result<bool, Error> {
        files::clone_file(self.0, source, to, may_copy)
    }

    fn extents(&self, path: &str, from: u64) -> Result<ExtentPage, Error> {
        files::extents(self.0, path, from)
    }

    fn differences(&self, base: &str, path: &str, from: u64) -> Result<ExtentPage, Error> {
        files::differences(self.0, base, path, from)
    }

    fn copy_tree(&self, source: &str, to: &str) -> Result<bool, Error> {
        files::copy_tree(self.0, source, to)
    }

    fn assemble(&self, to: &str, by: &str, pieces: &[(String, Piece)]) -> Result<(), Error> {
        files::assemble(self.0, to, by, pieces)
    }

    fn discard(&self, path: &str, by: &str) -> Result<bool, Error> {
        files::discard(self.0, path, by)
    }

    fn remove_tree(&self, path: &str) -> Result<bool, Error> {
        files::remove_tree(self.0, path)
    }

    fn make_directory(&self, path: &str) -> Result<(), Error> {
        files::make_directory(self.0, path)
    }

    fn rename(&self, source: &str, to: &str) -> Result<(), Error> {
        files::rename(self.0, source, to)
    }

    fn write(&self, path: &str, content: &[u8]) -> Result<(), Error> {
        files::write(self.0, path, content)
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        files::read(self.0, path)
    }

    fn names(&self, path: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>, Error> {
        files::names(self.0, path, after, limit)
    }

    fn set_quota(&self, path: &str, limit: u64) -> Result<(), Error> {
        files::set_quota(self.0, path, limit)
    }
}
