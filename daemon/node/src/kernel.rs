//! The calls to the kernel that rustix has no safe name for: ioctls of loop devices and filesystems, and
//! `mount_setattr`. This is the only file of the room with unsafe code, and it holds nothing else: each
//! function is one call with its arguments checked by type. What the calls are good for is told by
//! `loopdev.rs`, `freeze.rs`, `grow.rs` and `mount.rs`.
#![expect(unsafe_code, reason = "these system calls have no safe wrapper")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::{
    ioctl::{Getter, IntegerSetter, NoArg, Opcode, Setter, ioctl, opcode},
    mount::MountAttrFlags,
};

const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_GET_STATUS64: Opcode = 0x4C05;
const LOOP_SET_CAPACITY: Opcode = 0x4C07;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const FIFREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<i32>(b'X', 120);
const EXT4_IOC_RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);
const XFS_IOC_FSGEOMETRY_V1: Opcode = opcode::read::<XfsGeometry>(b'X', 100);
const XFS_IOC_FSGROWFSDATA: Opcode = opcode::write::<XfsGrowth>(b'X', 110);

/// The loop device refuses writes.
pub(crate) const LO_FLAGS_READ_ONLY: u32 = 1;
/// The loop device bypasses the page cache of its file.
pub(crate) const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LoopStatus {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) rdevice: u64,
    pub(crate) offset: u64,
    pub(crate) size_limit: u64,
    pub(crate) number: u32,
    pub(crate) encrypt_type: u32,
    pub(crate) encrypt_key_size: u32,
    pub(crate) flags: u32,
    pub(crate) file_name: [u8; 64],
    pub(crate) crypt_name: [u8; 64],
    pub(crate) encrypt_key: [u8; 32],
    pub(crate) init: [u64; 2],
}

impl LoopStatus {
    /// All zero, as the kernel wants what is not used.
    pub(crate) const EMPTY: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    status: LoopStatus,
    reserved: [u64; 8],
}

/// `struct xfs_fsop_geom_v1` of `xfs/xfs_fs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct XfsGeometry {
    pub(crate) block_size: u32,
    pub(crate) rt_extent_size: u32,
    pub(crate) ag_blocks: u32,
    pub(crate) ag_count: u32,
    pub(crate) log_blocks: u32,
    pub(crate) sector_size: u32,
    pub(crate) inode_size: u32,
    pub(crate) inode_percent: u32,
    pub(crate) data_blocks: u64,
    pub(crate) rt_blocks: u64,
    pub(crate) rt_extents: u64,
    pub(crate) log_start: u64,
    pub(crate) uuid: [u8; 16],
    pub(crate) stripe_unit: u32,
    pub(crate) stripe_width: u32,
    pub(crate) version: i32,
    pub(crate) flags: u32,
    pub(crate) log_sector_size: u32,
    pub(crate) rt_sector_size: u32,
    pub(crate) dir_block_size: u32,
}

#[repr(C)]
struct XfsGrowth {
    new_blocks: u64,
    inode_percent: u32,
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// The number of a loop device that nobody uses.
pub(crate) fn loop_free(control: BorrowedFd<'_>) -> io::Result<i32> {
    // The number is the ioctl's return value, which rustix's patterns drop.
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE.into()) };
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(number) }
}

/// Puts a loop device over a file.
pub(crate) fn loop_configure(
    device: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
    block_size: u32,
    status: LoopStatus,
) -> io::Result<()> {
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let config = LoopConfig { fd, block_size, status, reserved: [0; 8] };
    // SAFETY: the struct is the kernel's `loop_config`, and is only read.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }.map_err(io::Error::from)
}

/// What a loop device is over.
pub(crate) fn loop_status(device: BorrowedFd<'_>) -> io::Result<LoopStatus> {
    // SAFETY: the struct is the kernel's `loop_info64`, plain numbers that are written in full.
    unsafe { ioctl(device, Getter::<LOOP_GET_STATUS64, LoopStatus>::new()) }.map_err(io::Error::from)
}

/// Takes the size of the file anew.
pub(crate) fn loop_set_capacity(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    unsafe { ioctl(device, NoArg::<LOOP_SET_CAPACITY>::new()) }.map_err(io::Error::from)
}

/// Takes the file away, now or when the last opener closes.
pub(crate) fn loop_clear(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no argument.
    unsafe { ioctl(device, NoArg::<LOOP_CLR_FD>::new()) }.map_err(io::Error::from)
}

/// Holds all writes of the filesystem that this is opened in.
pub(crate) fn freeze(filesystem: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel ignores the argument of FIFREEZE.
    unsafe { ioctl(filesystem, IntegerSetter::<FIFREEZE>::new_usize(0)) }.map_err(io::Error::from)
}

/// Lets them go on.
pub(crate) fn thaw(filesystem: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel ignores the argument of FITHAW.
    unsafe { ioctl(filesystem, IntegerSetter::<FITHAW>::new_usize(0)) }.map_err(io::Error::from)
}

/// Makes a mounted ext4 this many blocks large.
pub(crate) fn ext4_resize(filesystem: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: reads one u64.
    unsafe { ioctl(filesystem, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(blocks)) }.map_err(io::Error::from)
}

/// How large a mounted xfs is.
pub(crate) fn xfs_geometry(filesystem: BorrowedFd<'_>) -> io::Result<XfsGeometry> {
    // SAFETY: the struct is the kernel's `xfs_fsop_geom_v1`, plain numbers that are written in full.
    unsafe { ioctl(filesystem, Getter::<XFS_IOC_FSGEOMETRY_V1, XfsGeometry>::new()) }.map_err(io::Error::from)
}

/// Makes a mounted xfs this many blocks large.
pub(crate) fn xfs_grow(filesystem: BorrowedFd<'_>, blocks: u64, inode_percent: u32) -> io::Result<()> {
    let growth = XfsGrowth { new_blocks: blocks, inode_percent };
    // SAFETY: the struct is the kernel's `xfs_growfs_data`, and is only read.
    unsafe { ioctl(filesystem, Setter::<XFS_IOC_FSGROWFSDATA, XfsGrowth>::new(growth)) }
        .map_err(io::Error::from)
}

/// Sets attributes of a mount by its descriptor.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: MountAttrFlags) -> io::Result<()> {
    // Access times are a field of two bits, and have to be cleared before one is set.
    let times = MountAttrFlags::MOUNT_ATTR__ATIME;
    let clear = if set.intersects(times) { times } else { MountAttrFlags::empty() };
    let attr = MountAttr {
        attr_set: u64::from(set.bits()),
        attr_clr: u64::from(clear.bits()),
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor; the struct is the kernel's `mount_attr`
    // in its first version, whose size is told, and lives through the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
