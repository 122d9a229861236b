//! Loop devices that live as long as the descriptor that holds them: the kernel is told to clear each after its last
//! close, so nothing is left behind whatever way the test ends. These are the calls that have no safe name elsewhere, and
//! nothing else is unsafe here. None is labelled: whoever looks for loop devices of the daemon's finds none of ours.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::PathBuf,
};

use rustix::{
    fs::OFlags,
    io::Errno,
    ioctl::{NoArg, Opcode, Setter, ioctl},
};

const LOOP_SET_CAPACITY: Opcode = 0x4C07;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config` of `linux/loop.h`, with the flags of the `loop_info64` that is in it.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    numbers: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [u64; 22],
    reserved: [u64; 8],
}

/// A loop device over a file.
#[derive(Debug)]
pub(super) struct Loop {
    device: File,
    number: u32,
}

impl Loop {
    /// Puts one over this file, past the page cache where the file's filesystem can do that.
    pub(super) fn over(file: &File) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        // Somebody else may take the free one first.
        for _ in 0..256 {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument and answers a number.
            #[expect(unsafe_code, reason = "rustix's patterns drop what this ioctl answers")]
            let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE.into()) };
            let number = u32::try_from(number).map_err(|_| io::Error::last_os_error())?;
            let device = File::options().read(true).write(true).open(format!("/dev/loop{number}"))?;
            match configure(&device, file) {
                Ok(()) => return Ok(Self { device, number }),
                Err(Errno::BUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::other("others take every loop device that is free"))
    }

    /// Its path.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// Its number among all devices, as sysfs spells it.
    pub(super) fn dev(&self) -> io::Result<String> {
        Ok(fs::read_to_string(self.sys("dev"))?.trim().to_owned())
    }

    /// Takes the size of its file anew.
    pub(super) fn grow(&self) -> io::Result<()> {
        // SAFETY: takes no argument.
        #[expect(unsafe_code, reason = "rustix does not know this ioctl")]
        unsafe { ioctl(self.device.as_fd(), NoArg::<LOOP_SET_CAPACITY>::new()) }.map_err(io::Error::from)
    }

    /// Whether somebody has it for himself, as a mounted filesystem does.
    pub(super) fn is_taken(&self) -> bool {
        let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or(0);
        File::options()
            .read(true)
            .custom_flags(exclusive)
            .open(self.path())
            .is_err_and(|error| Errno::from_io_error(&error) == Some(Errno::BUSY))
    }

    /// Lets go of it. Answers what to ask whether everybody else has too.
    pub(super) fn release(self) -> Released {
        let file = self.sys("loop/backing_file");
        let over = fs::read_to_string(&file).unwrap_or_default();
        Released { file, over }
    }

    fn sys(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/loop{}/{file}", self.number))
    }
}

/// A loop device that is gone when its last user is.
#[derive(Debug)]
pub(super) struct Released {
    file: PathBuf,
    over: String,
}

impl Released {
    /// Whether it is gone. Its number may be another's already.
    pub(super) fn is_gone(&self) -> bool {
        fs::read_to_string(&self.file).map_or(true, |over| over != self.over)
    }
}

fn configure(device: &File, file: &File) -> Result<(), Errno> {
    let set = |flags| {
        let fd = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?;
        let config = LoopConfig {
            fd,
            block_size: 512,
            numbers: [0; 5],
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            names: [0; 22],
            reserved: [0; 8],
        };
        // SAFETY: the struct is the kernel's `loop_config`, and is only read.
        #[expect(unsafe_code, reason = "rustix does not know this ioctl")]
        unsafe {
            ioctl(device.as_fd(), Setter::<LOOP_CONFIGURE, LoopConfig>::new(config))
        }
    };
    match set(LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO) {
        Err(Errno::INVAL) => set(LO_FLAGS_AUTOCLEAR),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_finds_the_struct_as_long_as_its_own() {
        // 4 + 4 + 232 + 64 bytes, the flags behind 60 of them.
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(std::mem::offset_of!(LoopConfig, flags), 60);
    }
}
