//! `kato store migrate`, as an operator types it: there and back, and what is said when it is too early.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use kato_orchestrator::{
    model::{ClusterId, VolumeId, VolumeName},
    ports::store::{Batch, Durability, Store as _},
    records::{self, keys},
};
use kato_store::MemoryStore;
use kato_tests::{daemon::binary, etcd::Etcd};

struct Operator {
    etcd: Etcd,
    folder: tempfile::TempDir,
}

impl Operator {
    fn kato(&self, kind: &str, words: &[&str]) -> Output {
        let config = self.folder.path().join(format!("{kind}.toml"));
        let folder = self.folder.path().display();
        let text = format!(
            "[folders]\ndata = \"{folder}/data\"\nrun = \"{folder}/run\"\n[node]\nid = \"one\"\n[store]\nkind = \"{kind}\"\n\
             [store.etcd]\nendpoints = {:?}\n",
            self.etcd.endpoints()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg("--config").arg(&config).args(words).output().unwrap()
    }

    fn done(&self, kind: &str, words: &[&str]) -> (String, String) {
        let output = self.kato(kind, words);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert!(output.status.success(), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }

    fn failed(&self, kind: &str, words: &[&str]) -> String {
        let output = self.kato(kind, words);
        assert!(!output.status.success(), "{words:?} was done");
        String::from_utf8(output.stderr).unwrap()
    }

    fn has(&self, place: &str) -> bool {
        self.folder.path().join("data/store").join(place).exists()
    }
}

/// A dump of some records, as a daemon writes it.
async fn dump(into: &Path) {
    let store = MemoryStore::new();
    let mut batch = Batch::default();
    let cluster = keys::cluster();
    batch.puts.push((cluster.clone(), records::encode(&cluster, &ClusterId(77))));
    for n in 0..250u128 {
        let key = keys::volume_name(&VolumeName::parse(&format!("db {n}")).unwrap());
        let value = records::encode(&key, &VolumeId(n));
        batch.puts.push((key, value));
    }
    store.commit(batch, Durability::Lazy).await.unwrap();
    kato_store::dump(&store, fs::File::create(into).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_moves_the_records_into_etcd_and_back() {
    let operator = Operator { etcd: Etcd::start(), folder: tempfile::tempdir().unwrap() };
    let lines = operator.folder.path().join("dump.jsonl");
    dump(&lines).await;
    let lines = lines.to_str().unwrap();
    let there = ["store", "migrate", "--from", "sled", "--to", "etcd"];
    let back = ["store", "migrate", "--from", "etcd", "--to", "sled"];
    let told = operator.failed("sled", &there);
    assert!(told.contains("there are no records"), "{told}");
    operator.done("sled", &["store", "load", lines]);
    let (before, _) = operator.done("sled", &["store", "dump"]);

    let (_, told) = operator.done("sled", &there);
    assert!(told.contains("251 records were moved and compared") && told.contains("sled.moved"), "{told}");
    assert!(operator.has("sled.moved") && !operator.has("sled"));
    assert_eq!(operator.done("etcd", &["store", "dump"]).0, before);
    let told = operator.failed("etcd", &["store", "load", lines]);
    assert!(told.contains("251 records"), "{told}");

    let (_, told) = operator.done("etcd", &back);
    assert!(told.contains("251 records were moved and compared"), "{told}");
    assert_eq!(operator.done("sled", &["store", "dump"]).0, before);
    let told = operator.failed("etcd", &["store", "dump"]);
    assert!(told.contains("moved out"), "{told}");
    let told = operator.failed("sled", &there);
    assert!(told.contains("--anew") && operator.has("sled"), "{told}");
    operator.done("sled", &[&there[..], &["--anew"]].concat());
    assert_eq!(operator.done("etcd", &["store", "dump"]).0, before);
    assert!(
        operator.has("sled.moved") && operator.has("sled.moved-2"),
        "nothing that was set aside is thrown away"
    );
    let told = operator.failed("etcd", &["store", "migrate", "--from", "etcd", "--to", "etcd"]);
    assert!(told.contains("the same"), "{told}");
}
