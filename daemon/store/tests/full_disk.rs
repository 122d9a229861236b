//! A disk that is full: the store opens, takes what frees space, refuses the rest with words that help, and
//! goes on when there is room again. Each test has a small file system in memory, so they need root.

#![cfg(test)]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use kato_orchestrator::{
    Kind,
    model::Bytes,
    ports::store::{Batch, Durability, Store},
};
use kato_store::{Config, SledStore};
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

/// A disk of so many MiB.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn new(mebibytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = std::ffi::CString::new(format!("size={mebibytes}m,mode=700")).unwrap();
        rustix::mount::mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), Some(size.as_c_str()))
            .expect("mounting a tmpfs needs root");
        Self { folder }
    }

    fn config(&self) -> Config {
        let mut config = Config::at(self.folder.path().join("store"));
        config.reserve = Bytes(12 << 20);
        config.low_water = Bytes(4 << 20);
        config.segment = 256 << 10;
        config
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    /// Somebody writes until nothing is left.
    fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.ballast()).unwrap();
        let block = [7; 4096];
        while file.write_all(&block).is_ok() {}
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.folder.path()).unwrap();
        disk.f_bavail * disk.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.folder.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn put(key: &str) -> Batch {
    Batch { puts: vec![(key.to_owned(), vec![1; 500])], ..Batch::default() }
}

fn delete(key: &str) -> Batch {
    Batch { deletes: vec![key.to_owned()], frees_space: true, ..Batch::default() }
}

async fn count(store: &SledStore) -> usize {
    store.scan("", None, usize::MAX).await.unwrap().len()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[tokio::test]
async fn the_reserve_is_really_taken() {
    let disk = Disk::new(64);
    let before = disk.free();
    let store = SledStore::open(disk.config()).unwrap();
    assert!(before - disk.free() >= 12 << 20);
    drop(store);
}

#[tokio::test]
async fn a_full_disk_takes_deletes_and_says_what_to_do_about_the_rest() {
    let disk = Disk::new(64);
    let store = SledStore::open(disk.config()).unwrap();
    for n in 0..1500 {
        store.commit(put(&format!("k/{n:04}")), Durability::Lazy).await.unwrap();
    }
    store.flush().await.unwrap();
    disk.fill();
    let error = store.commit(put("new"), Durability::Durable).await.unwrap_err();
    assert_eq!(error.kind, Kind::Exhausted);
    assert!(error.is_final());
    let path = disk.config().path;
    for words in [path.to_str().unwrap(), "full", "deleted and unmounted"] {
        assert!(error.message.contains(words), "{error}");
    }
    // Whoever fills the disk takes every byte that is given back.
    for n in 0..1500 {
        store.commit(delete(&format!("k/{n:04}")), Durability::Durable).await.unwrap();
        if n == 700 {
            disk.fill();
        }
    }
    assert_eq!(count(&store).await, 0);
    assert_eq!(store.commit(put("new"), Durability::Durable).await.unwrap_err().kind, Kind::Exhausted);

    fs::remove_file(disk.ballast()).unwrap();
    store.commit(put("new"), Durability::Durable).await.unwrap();
    assert_eq!(length(&path.join("reserve")), 12 << 20, "the reserve is taken again");
    drop(store);
    assert_eq!(count(&SledStore::open(disk.config()).unwrap()).await, 1);
}

#[tokio::test]
async fn a_store_opens_on_a_full_disk() {
    let disk = Disk::new(64);
    let store = SledStore::open(disk.config()).unwrap();
    for n in 0..1000 {
        store.commit(put(&format!("k/{n:04}")), Durability::Durable).await.unwrap();
    }
    drop(store);
    disk.fill();
    assert_eq!(disk.free(), 0);
    for _ in 0..3 {
        let store = SledStore::open(disk.config()).unwrap();
        assert_eq!(count(&store).await, 1000);
        assert_eq!(store.commit(put("new"), Durability::Durable).await.unwrap_err().kind, Kind::Exhausted);
        store.commit(delete("k/0000"), Durability::Durable).await.unwrap();
        store.commit(Batch { frees_space: true, ..put("k/0000") }, Durability::Durable).await.unwrap();
    }
}

#[tokio::test]
async fn an_engine_that_met_a_full_disk_is_opened_again_and_no_lazy_commit_is_missed() {
    let disk = Disk::new(64);
    let mut config = disk.config();
    // Nothing warns of the end, so sled itself meets it.
    config.low_water = Bytes(0);
    let store = SledStore::open(config.clone()).unwrap();
    store.commit(put("first"), Durability::Durable).await.unwrap();
    disk.fill();
    let (mut kept, mut exhausted) = (1, false);
    for n in 0..4000 {
        let durability = if n % 5 == 0 { Durability::Durable } else { Durability::Lazy };
        match store.commit(put(&format!("k/{n:04}")), durability).await {
            Ok(_) => kept += 1,
            Err(error) => {
                assert_eq!(error.kind, Kind::Exhausted, "{error}");
                exhausted = true;
                break;
            }
        }
        assert_eq!(store.load(&format!("k/{n:04}")).await.unwrap().unwrap().value, [1; 500]);
    }
    assert!(length(&config.path.join("reserve")) == 0 || exhausted, "the disk was not full");
    assert_eq!(count(&store).await, kept, "readers see every commit that was answered");
    store.commit(delete("first"), Durability::Durable).await.unwrap();
    drop(store);
    assert_eq!(count(&SledStore::open(config).unwrap()).await, kept - 1);
}
