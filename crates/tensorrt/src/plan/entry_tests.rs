//! Entries that are damaged in every way, and disks that fill up at every place.

use std::io::Cursor;

use super::*;

fn key() -> PlanKey {
    PlanKey::of_name("test")
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

/// The bytes of an entry.
fn entry(plan: &[u8], manifest: &[u8]) -> Vec<u8> {
    let mut writer = EntryWriter::new(Cursor::new(Vec::new()), &key()).unwrap();
    writer.write_all(plan).unwrap();
    writer.finish(manifest).unwrap().into_inner()
}

/// Bytes that cannot be compressed.
fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// A disk with room for so many bytes.
struct Disk {
    bytes: Cursor<Vec<u8>>,
    room: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 && !bytes.is_empty() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.room -= count;
        self.bytes.write(&bytes[..count])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Disk {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

#[test]
fn an_entry_reads_back_and_seeks_within_its_plan() {
    let mut found = PlanEntry::open(&mut file_of(&entry(b"0123456789", b"list")), &key()).unwrap();
    assert_eq!((found.len(), found.manifest()), (10, &b"list"[..]));
    let mut plan = String::new();
    found.read_to_string(&mut plan).unwrap();
    assert_eq!(plan, "0123456789");
    assert_eq!(found.seek(SeekFrom::End(-3)).unwrap(), 7);
    assert_eq!(found.seek(SeekFrom::Current(1)).unwrap(), 8);
    let mut rest = [0; 8];
    assert_eq!(found.read(&mut rest).unwrap(), 2);
    assert_eq!(&rest[..2], b"89");
    assert_eq!(found.read(&mut rest).unwrap(), 0, "the manifest is no plan");
    assert!(found.seek(SeekFrom::Current(-11)).is_err());
    found.seek(SeekFrom::Start(100)).unwrap();
    assert_eq!(found.read(&mut rest).unwrap(), 0, "behind the end");
}

#[test]
fn every_flipped_bit_and_every_truncation_is_found() {
    let whole = entry(b"a plan", b"list");
    for index in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[index] ^= 1 << bit;
            let found = PlanEntry::open(&mut file_of(&flipped), &key());
            assert!(found.is_err(), "byte {index}, bit {bit}");
        }
        let found = PlanEntry::open(&mut file_of(&whole[..index]), &key());
        assert!(found.is_err(), "{index} bytes");
    }
    let longer = [&whole[..], b"x"].concat();
    let reason = PlanEntry::open(&mut file_of(&longer), &key()).unwrap_err();
    assert!(reason.contains("of plan and 4 of manifest"), "{reason}");
}

#[test]
fn lengths_beyond_the_file_are_refused_before_anything_is_read() {
    let mut whole = entry(b"a plan", b"list");
    whole[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(PlanEntry::open(&mut file_of(&whole), &key()).is_err());
}

#[test]
fn what_repeats_takes_little_room() {
    let plan = noise(1000).repeat(1000);
    let whole = entry(&plan, b"");
    assert!(whole.len() < 3000, "{} bytes", whole.len());
    let mut found = PlanEntry::open(&mut file_of(&whole), &key()).unwrap();
    let mut again = Vec::new();
    found.read_to_end(&mut again).unwrap();
    assert!(again == plan);
}

#[test]
fn a_plan_longer_or_shorter_than_it_says_is_damaged() {
    for plan in [&b"a plan"[..], b""] {
        let mut writer = EntryWriter::new(Cursor::new(Vec::new()), &key()).unwrap();
        writer.write_all(plan).unwrap();
        writer.len = 3;
        let whole = writer.finish(b"list").unwrap().into_inner();
        let reason = PlanEntry::open(&mut file_of(&whole), &key()).unwrap_err();
        assert!(reason.ends_with("expected 3"), "{reason}");
    }
}

#[test]
fn an_entry_of_another_key_is_damaged() {
    let mut file = file_of(&entry(b"a plan", b""));
    let reason = PlanEntry::open(&mut file, &PlanKey::of_name("other")).unwrap_err();
    assert_eq!(reason, "its checksum is wrong");
}

#[test]
fn a_full_disk_is_told_wherever_it_fills_up() {
    let plan = noise(3 * BUFFER / 2);
    let whole = entry(&plan, b"list").len();
    // The header is written twice: first as zeros, and over them in the end.
    for room in [0, 10, HEADER, BUFFER, whole - 1, whole, whole + HEADER - 1] {
        let bytes = Cursor::new(Vec::new());
        let mut writer = EntryWriter::new(Disk { bytes, room }, &key()).unwrap();
        // A library that goes on after failures.
        for part in plan.chunks(1000) {
            let _ = writer.write_all(part);
        }
        let failure = match writer.failure() {
            Some(failure) => failure,
            None => writer.finish(b"list").map(|_| ()).unwrap_err(),
        };
        assert_eq!(failure.kind(), io::ErrorKind::StorageFull, "{room}");
    }
}

#[test]
fn after_a_failure_nothing_more_is_taken() {
    let bytes = Cursor::new(Vec::new());
    let room = BUFFER + 100;
    let mut writer = EntryWriter::new(Disk { bytes, room }, &key()).unwrap();
    assert!(writer.write_all(&noise(4 * BUFFER)).is_err());
    assert!(writer.write_all(&[1]).is_err());
    assert!(writer.finish(b"").is_err());
}
