//! What is written on a device, told from its first and last bytes: pure functions over what was read, so
//! that the table can be tested without a disk. Everything that somebody could call data has a row here; the
//! two filesystems that we make are read further, as growing and checking need their numbers. Reading is
//! `format.rs`.

use kato_orchestrator::model::FsType;

/// How much is looked at from the start and from the end.
pub(crate) const WINDOW: usize = 1 << 20;

/// What was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    /// ext2, ext3 or ext4.
    Ext(Ext),
    /// xfs.
    Xfs(Xfs),
    /// Something that is not ours to touch, by name.
    Foreign(&'static str),
}

/// The superblock of an ext filesystem, as far as we need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ext {
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    pub(crate) first_block: u64,
    pub(crate) blocks_per_group: u64,
    /// The blocks of bookkeeping that the last group needs before it is worth having.
    pub(crate) group_overhead: u64,
    /// Unmounted in order, without errors on record.
    pub(crate) clean: bool,
    /// The journal holds what has to be replayed.
    pub(crate) needs_recovery: bool,
    /// Somebody has mounted it at least once.
    pub(crate) was_mounted: bool,
    /// How many errors the kernel has noted in it.
    pub(crate) errors: u32,
}

/// The superblock of an xfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Xfs {
    pub(crate) geometry: XfsGeometry,
    /// Its make has not come to its end: no kernel mounts it.
    pub(crate) is_half_made: bool,
    /// Its log, where that is on the same device.
    pub(crate) log: Option<XfsLog>,
}

/// How large an xfs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XfsGeometry {
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    pub(crate) group_blocks: u64,
}

/// Where the log of an xfs is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct XfsLog {
    pub(crate) begin: u64,
    pub(crate) length: u64,
    /// How much of it its make has written: one record that says "unmounted".
    made: u64,
}

impl Signature {
    /// Its name, for people.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ext(_) => "an ext filesystem",
            Self::Xfs(_) => "an xfs filesystem",
            Self::Foreign(name) => name,
        }
    }

    /// Whether it is what a make of this filesystem leaves behind.
    pub(crate) fn is_made_by(&self, fs: FsType) -> bool {
        matches!((self, fs), (Self::Ext(_), FsType::Ext4) | (Self::Xfs(_), FsType::Xfs))
    }
}

impl Ext {
    /// The most blocks that this filesystem can have on so many bytes: a last group that could not even hold
    /// its own bookkeeping is left out by resize2fs and by the kernel.
    pub(crate) fn blocks_on(&self, size: u64) -> u64 {
        let blocks = size / self.block_size;
        let rest = blocks.saturating_sub(self.first_block) % self.blocks_per_group;
        if rest > 0 && rest < self.group_overhead { blocks - rest } else { blocks }
    }
}

impl XfsGeometry {
    /// The most blocks that this filesystem can have on so many bytes: an allocation group has at least 64.
    pub(crate) fn blocks_on(&self, size: u64) -> u64 {
        let blocks = size / self.block_size;
        let rest = blocks % self.group_blocks;
        if rest > 0 && rest < 64 { blocks - rest } else { blocks }
    }
}

impl XfsLog {
    /// Whether the first bytes of the log are as a make leaves them: one record of the first cycle, then zeroes. A
    /// kernel that mounts it stamps the blocks ahead before it does anything else, and none ever writes zeroes into
    /// a log; one that xfs_repair has made anew is in a later cycle.
    pub(crate) fn is_fresh(&self, first: &[u8]) -> bool {
        const FIRST_CYCLE: u64 = 1;
        let made = usize::try_from(self.made).unwrap_or(usize::MAX);
        at(first, 0, b"\xfe\xed\xba\xbe")
            && be32(first, 4) == Some(FIRST_CYCLE)
            && first.get(made..).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    }
}

/// Signatures at a fixed place from the start: offset, bytes, name. The order is from the container to the
/// contained, because a LUKS or LVM device may carry leftovers of what was there before.
const AT_START: &[(usize, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (0x4000, b"SKUL\xba\xbe", "a LUKS container"),
    (0x8000, b"SKUL\xba\xbe", "a LUKS container"),
    (0x10000, b"SKUL\xba\xbe", "a LUKS container"),
    (0, b"LABELONE", "an LVM physical volume"),
    (512, b"LABELONE", "an LVM physical volume"),
    (1024, b"LABELONE", "an LVM physical volume"),
    (1536, b"LABELONE", "an LVM physical volume"),
    (0, b"bluestore block device", "a Ceph OSD"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (
        4096 + 24,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
        "a bcache or bcachefs device",
    ),
    (
        4096 + 24,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
        "a bcache or bcachefs device",
    ),
    (0x10040, b"_BHRfS_M", "a btrfs filesystem"),
    (0x10034, b"ReIsErFs", "a reiserfs filesystem"),
    (0x10034, b"ReIsEr2Fs", "a reiserfs filesystem"),
    (0x10000, b"\x01\x16\x19\x70", "a gfs2 filesystem"),
    (0x8000, b"JFS1", "a jfs filesystem"),
    (32769, b"CD001", "an ISO 9660 image"),
    (32769, b"BEA01", "a UDF filesystem"),
    (32769, b"NSR0", "a UDF filesystem"),
    (1024, b"\x10\x20\xf5\xf2", "an f2fs filesystem"),
    (1024, b"\xe2\xe1\xf5\xe0", "an erofs filesystem"),
    (1024 + 6, b"\x34\x34", "a nilfs2 filesystem"),
    (1024, b"H+\x00", "an HFS+ filesystem"),
    (1024, b"HX\x00", "an HFS+ filesystem"),
    (0, b"hsqs", "a squashfs image"),
    (0, b"-FVE-FS-", "a BitLocker volume"),
    (3, b"-FVE-FS-", "a BitLocker volume"),
    (3, b"NTFS    ", "an NTFS filesystem"),
    (3, b"EXFAT   ", "an exFAT filesystem"),
    (54, b"FAT1", "a FAT filesystem"),
    (82, b"FAT32", "a FAT filesystem"),
    (32, b"NXSB", "an APFS container"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0x200000, b"\x0d\xd0\x01\xc0", "a VMFS volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (8182, b"SWAPSPACE2", "swap space"),
    (16374, b"SWAPSPACE2", "swap space"),
    (65526, b"SWAPSPACE2", "swap space"),
    (4086, b"S1SUSPEND", "a suspended machine"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
];

/// Signatures at a fixed place from the end: distance, bytes, name.
const AT_END: &[(usize, &[u8], &str)] = &[
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (8192, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (65536, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (4096, b"\x83\x74\x02\x67", "a DRBD device"),
    (4096, b"\x83\x74\x02\x6b", "a DRBD device"),
];

/// ZFS writes rings of uberblocks into labels of 256 KiB, two at the start and two at the end, each ring
/// in its second half.
const ZFS_LABEL: usize = 256 << 10;
const ZFS_UBERBLOCK: [&[u8]; 2] = [b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c"];

/// What the first and last bytes of a device say. The two may overlap on a small one.
pub(crate) fn identify(head: &[u8], tail: &[u8]) -> Option<Signature> {
    let at_start = AT_START.iter().find(|(offset, magic, _)| at(head, *offset, magic)).map(|row| row.2);
    let at_end = || {
        AT_END
            .iter()
            .find(|(back, magic, _)| tail.len().checked_sub(*back).is_some_and(|from| at(tail, from, magic)))
            .map(|row| row.2)
    };
    let zfs = || (has_zfs_label(head) || has_zfs_label_at_end(tail)).then_some("a ZFS pool member");
    if let Some(name) = at_start.or_else(at_end).or_else(zfs) {
        return Some(Signature::Foreign(name));
    }
    if let Some(xfs) = xfs(head) {
        return Some(Signature::Xfs(xfs));
    }
    if let Some(ext) = ext(head) {
        return Some(Signature::Ext(ext));
    }
    has_partition_table(head).then_some(Signature::Foreign("a partition table or boot sector"))
}

fn at(bytes: &[u8], offset: usize, magic: &[u8]) -> bool {
    bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
}

fn has_zfs_label(head: &[u8]) -> bool {
    head.chunks(ZFS_LABEL).take(2).any(has_uberblock)
}

fn has_zfs_label_at_end(tail: &[u8]) -> bool {
    // The labels of a device end at a multiple of their size; what follows is unused.
    tail.rchunks(1024).any(|sector| ZFS_UBERBLOCK.iter().any(|magic| sector.starts_with(magic)))
}

fn has_uberblock(label: &[u8]) -> bool {
    label.get(ZFS_LABEL / 2..).is_some_and(|ring| {
        ring.chunks(1024).any(|uber| ZFS_UBERBLOCK.iter().any(|magic| uber.starts_with(magic)))
    })
}

/// The two bytes at the end of the first sector are in every boot sector and every DOS partition table.
fn has_partition_table(head: &[u8]) -> bool {
    at(head, 510, b"\x55\xaa")
}

fn le16(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u64::from(u16::from_le_bytes(word.try_into().ok()?)))
}

fn le32(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u64::from(u32::from_le_bytes(word.try_into().ok()?)))
}

fn be32(bytes: &[u8], offset: usize) -> Option<u64> {
    let word = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u64::from(u32::from_be_bytes(word.try_into().ok()?)))
}

fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some((be32(bytes, offset)? << 32) | be32(bytes, offset.checked_add(4)?)?)
}

/// Reads an ext superblock; the offsets are those of `struct ext4_super_block`.
fn ext(head: &[u8]) -> Option<Ext> {
    const STATE_CLEAN: u64 = 1;
    const STATE_ERRORS: u64 = 2;
    const INCOMPAT_RECOVER: u64 = 4;
    const INCOMPAT_64BIT: u64 = 0x80;
    let sb = head.get(1024..2048)?;
    if le16(sb, 0x38)? != 0xEF53 {
        return None;
    }
    let block_size = 1024u64.checked_shl(u32::try_from(le32(sb, 0x18)?).ok().filter(|shift| *shift <= 6)?)?;
    let incompat = le32(sb, 0x60)?;
    let high = if incompat & INCOMPAT_64BIT == 0 { 0 } else { le32(sb, 0x150)? };
    let state = le16(sb, 0x3A)?;
    let blocks = (high << 32) | le32(sb, 4)?;
    let blocks_per_group = le32(sb, 0x20)?.max(1);
    let inode_table = (le32(sb, 0x28)? * le16(sb, 0x58)?).div_ceil(block_size);
    let descriptor = if incompat & INCOMPAT_64BIT == 0 { 32 } else { le16(sb, 0xFE)?.max(32) };
    let descriptors = (blocks.div_ceil(blocks_per_group) * descriptor).div_ceil(block_size);
    Some(Ext {
        block_size,
        blocks,
        first_block: le32(sb, 0x14)?,
        blocks_per_group,
        group_overhead: 1 + descriptors + le16(sb, 0xCE)? + 2 + inode_table + 50,
        clean: state & STATE_CLEAN != 0 && state & STATE_ERRORS == 0,
        needs_recovery: incompat & INCOMPAT_RECOVER != 0,
        was_mounted: le32(sb, 0x2C)? != 0,
        errors: u32::try_from(le32(sb, 0x194)?).unwrap_or(u32::MAX),
    })
}

/// Reads an xfs superblock; the offsets are those of `struct xfs_dsb`.
fn xfs(head: &[u8]) -> Option<Xfs> {
    if !at(head, 0, b"XFSB") {
        return None;
    }
    let geometry = XfsGeometry {
        block_size: be32(head, 4)?.max(1),
        blocks: be64(head, 8)?,
        group_blocks: be32(head, 84)?.max(1),
    };
    Some(Xfs { geometry, is_half_made: *head.get(126)? != 0, log: xfs_log(head, geometry) })
}

/// A block's number is that of its group, and its place in the group in so many of the lower bits.
fn xfs_log(head: &[u8], geometry: XfsGeometry) -> Option<XfsLog> {
    let (first, bits) = (be64(head, 48).filter(|first| *first != 0)?, u32::from(*head.get(124)?));
    let group = first.checked_shr(bits)?;
    let within = first - group.checked_shl(bits)?;
    let begin = group.checked_mul(geometry.group_blocks)?.checked_add(within)?;
    Some(XfsLog {
        begin: begin.checked_mul(geometry.block_size)?,
        length: be32(head, 96)?.checked_mul(geometry.block_size)?,
        made: be32(head, 196)?.max(1024),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_recognised_by_its_name() {
        for (offset, magic, name) in AT_START {
            let mut head = vec![0; 4 << 20];
            head[*offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(identify(&head, &[]), Some(Signature::Foreign(name)), "{name}");
        }
        for (back, magic, name) in AT_END {
            let mut tail = vec![0; WINDOW];
            let from = WINDOW - back;
            tail[from..from + magic.len()].copy_from_slice(magic);
            assert_eq!(identify(&[], &tail), Some(Signature::Foreign(name)), "{name}");
        }
    }

    #[test]
    fn zfs_is_recognised_in_both_byte_orders_at_either_end() {
        for magic in ZFS_UBERBLOCK {
            let mut window = vec![0; WINDOW];
            let ring = ZFS_LABEL / 2 + 5 * 1024;
            window[ring..ring + 8].copy_from_slice(magic);
            let found = Some(Signature::Foreign("a ZFS pool member"));
            assert_eq!(identify(&window, &[]), found);
            assert_eq!(identify(&[], &window), found);
        }
    }

    #[test]
    fn a_boot_sector_is_a_signature_and_zeroes_are_none() {
        let mut head = vec![0; WINDOW];
        assert_eq!(identify(&head, &head), None);
        head[510..512].copy_from_slice(b"\x55\xaa");
        assert!(matches!(identify(&head, &[]), Some(Signature::Foreign(_))));
    }

    #[test]
    fn a_last_group_too_small_for_its_bookkeeping_is_not_asked_for() {
        let ext = Ext {
            block_size: 4096,
            blocks: 32768,
            first_block: 0,
            blocks_per_group: 32768,
            group_overhead: 600,
            clean: true,
            needs_recovery: false,
            was_mounted: false,
            errors: 0,
        };
        assert_eq!(ext.blocks_on(4096 * (32768 + 599)), 32768);
        assert_eq!(ext.blocks_on(4096 * (32768 + 600)), 32768 + 600);
        let xfs = XfsGeometry { block_size: 4096, blocks: 1000, group_blocks: 1000 };
        assert_eq!(xfs.blocks_on(4096 * 1063), 1000);
        assert_eq!(xfs.blocks_on(4096 * 1064), 1064);
    }

    #[test]
    fn the_log_of_an_xfs_is_found_from_its_group_and_told_from_one_that_was_used() {
        let mut head = vec![0; 4096];
        head[..4].copy_from_slice(b"XFSB");
        let mut put = |offset: usize, bytes: &[u8]| head[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(4, &4096u32.to_be_bytes());
        put(8, &4000u64.to_be_bytes());
        put(48, &((2u64 << 10) | 6).to_be_bytes());
        put(84, &1000u32.to_be_bytes());
        put(96, &500u32.to_be_bytes());
        put(124, &[10]);
        let xfs = xfs(&head).unwrap();
        let log = xfs.log.unwrap();
        assert_eq!(log, XfsLog { begin: (2 * 1000 + 6) * 4096, length: 500 * 4096, made: 1024 });

        let mut first = vec![0; 64 << 10];
        assert!(!log.is_fresh(&first), "no record at all");
        first[..8].copy_from_slice(b"\xfe\xed\xba\xbe\0\0\0\x01");
        first[700] = 1;
        assert!(log.is_fresh(&first));
        first[40_000] = 1;
        assert!(!log.is_fresh(&first), "somebody wrote behind the first record");
        first[40_000] = 0;
        first[7] = 2;
        assert!(!log.is_fresh(&first), "a later cycle");
    }
}
