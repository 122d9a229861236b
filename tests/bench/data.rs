//! The speed of data: fio on a volume that the daemon mounted, against fio on the very same image file with
//! the very same loop settings mounted by hand. The daemon is not in the path of data, so the ratio is 1 but
//! for noise; the runs alternate, so that a slow minute of the disk hits both.

use std::{fs, path::Path, thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    Effort, Fallible,
    daemon::{Daemon, program, run},
    table::{Row, Table},
    yardstick::Ground,
};

const WORKLOADS: [(&str, &[&str]); 3] = [
    ("4 KiB random writes, each flushed", &["--rw=randwrite", "--bs=4k", "--fdatasync=1"]),
    ("4 KiB random reads, direct", &["--rw=randread", "--bs=4k", "--direct=1"]),
    ("1 MiB sequential writes, direct", &["--rw=write", "--bs=1M", "--direct=1"]),
];

pub(crate) fn rows(ground: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let daemon = Daemon::start(&ground.folder("daemon")?)?;
    let target = ground.folder("by-hand")?;
    daemon.door()?.create("data", &json!({ "class": "ext4", "size": "512MiB" }))?;
    let path = daemon.door()?.mount("data", "bench")?;
    let image = image_under(Path::new(&path))?;
    daemon.door()?.unmount("data", "bench")?;
    for (what, workload) in WORKLOADS {
        let (mut ours, mut bare) = (0.0, 0.0);
        let rounds = effort.of(4, 1);
        // The first run lays the file out and warms the caches that both share.
        mounted(&daemon, workload, effort)?;
        for round in 0..rounds {
            // Whoever comes second finds more in the disk's own caches: they take turns.
            if round % 2 == 0 {
                ours += mounted(&daemon, workload, effort)?;
                bare += by_hand(&image, &target, workload, effort)?;
            } else {
                bare += by_hand(&image, &target, workload, effort)?;
                ours += mounted(&daemon, workload, effort)?;
            }
        }
        let rounds = f64::from(u32::try_from(rounds)?);
        table.row(&Row {
            what: what.to_owned(),
            ours: format!("{:.1} MiB/s", ours / rounds),
            yardstick: format!("by hand {:.1} MiB/s", bare / rounds),
            ratio: (bare > 0.0).then(|| ours / bare),
            aim: Some(("1.0, but for 10 %".to_owned(), ours >= bare * 0.9)),
        });
    }
    daemon.door()?.remove("data")
}

fn mounted(daemon: &Daemon, workload: &[&str], effort: Effort) -> Fallible<f64> {
    let path = daemon.door()?.mount("data", "bench")?;
    let measured = fio(Path::new(&path), workload, effort);
    daemon.door()?.unmount("data", "bench")?;
    measured
}

fn by_hand(image: &Image, target: &Path, workload: &[&str], effort: Effort) -> Fallible<f64> {
    until_free(image)?;
    let device = attach(image)?;
    run(program("mount").args(["-o", "nosuid,nodev", &device]).arg(target))?;
    let measured = fio(&target.join(&image.data_root), workload, effort);
    run(program("umount").arg(target))?;
    run(program("losetup").args(["-d", &device]))?;
    until_free(image)?;
    measured
}

/// Waits until no device stands on the image any more. An unmount is answered when its holder is gone, which
/// may be before the device is, and another mount namespace may have taken a copy of the mount along: two
/// filesystems alive on one image would destroy it.
fn until_free(image: &Image) -> Fallible {
    for _ in 0..3000 {
        let stands = fs::read_dir("/sys/block")?.flatten().any(|block| {
            fs::read_to_string(block.path().join("loop/backing_file"))
                .is_ok_and(|file| file.trim() == image.file)
        });
        if !stands {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(format!("{} is still attached: is another mount namespace holding it?", image.file).into())
}

/// What a mounted volume stands on.
struct Image {
    file: String,
    direct: bool,
    /// The directory of the filesystem that a container gets.
    data_root: String,
}

/// Finds the image beneath a path, as the kernel tells it.
fn image_under(path: &Path) -> Fallible<Image> {
    let found = run(program("findmnt").args(["-n", "-o", "SOURCE,FSROOT", "--target"]).arg(path))?;
    let mut words = found.split_whitespace();
    let source = words.next().ok_or("findmnt names no device")?;
    // A bind of a directory is shown as /dev/loop0[/data].
    let device = source.split('[').next().unwrap_or(source).trim_start_matches("/dev/").to_owned();
    let fact = |name: &str| fs::read_to_string(format!("/sys/block/{device}/loop/{name}"));
    Ok(Image {
        file: fact("backing_file")?.trim().to_owned(),
        direct: fact("dio")?.trim() == "1",
        data_root: words.next().unwrap_or("/").trim_start_matches('/').to_owned(),
    })
}

/// The same loop device as the daemon's, by hand.
fn attach(image: &Image) -> Fallible<String> {
    let direct = if image.direct { "--direct-io=on" } else { "--direct-io=off" };
    Ok(run(program("losetup").args(["--find", "--show", direct, &image.file]))?.trim().to_owned())
}

/// MiB in a second.
fn fio(folder: &Path, workload: &[&str], effort: Effort) -> Fallible<f64> {
    let seconds = effort.of(4, 1);
    let answer = run(program("fio")
        .args(["--name=bench", "--size=128M", "--ioengine=psync", "--time_based", "--output-format=json"])
        .arg(format!("--runtime={seconds}"))
        .arg(format!("--directory={}", folder.display()))
        .args(workload))?;
    let answer: Value = serde_json::from_str(&answer)?;
    let speed = |kind: &str| {
        answer.pointer(&format!("/jobs/0/{kind}/bw_bytes")).and_then(Value::as_f64).unwrap_or_default()
    };
    Ok((speed("read") + speed("write")) / f64::from(1 << 20))
}
