//! Whether bytes are a whole CUBIN. The driver is given a pointer and no length, so what it
//! would read must lie within the bytes before it sees them.

/// Whether `code` is a 64-bit little-endian ELF file whose tables and sections all lie within it.
pub(crate) fn is_whole(code: &[u8]) -> bool {
    let is_elf = code.len() >= HEADER && code.starts_with(b"\x7fELF\x02\x01");
    is_elf && programs_fit(code) == Some(true) && sections_fit(code) == Some(true)
}

fn programs_fit(code: &[u8]) -> Option<bool> {
    let (start, size) = (number::<8>(code, 32)?, number::<2>(code, 54)?);
    let count = number::<2>(code, 56)?;
    table_fits(code, start, size, count, PROGRAM)?;
    let fits = |index: u64| {
        let at = start + index * size;
        within(
            code,
            number::<8>(code, at + 8)?,
            number::<8>(code, at + 32)?,
        )
    };
    Some((0..count).all(|index| fits(index) == Some(true)))
}

fn sections_fit(code: &[u8]) -> Option<bool> {
    let (start, size) = (number::<8>(code, 40)?, number::<2>(code, 58)?);
    let count = number::<2>(code, 60)?;
    let names = number::<2>(code, 62)?;
    table_fits(code, start, size, count, SECTION)?;
    let fits = |index: u64| {
        let at = start + index * size;
        // Sections without bytes in the file have a length all the same.
        let is_empty = number::<4>(code, at + 4)? == NO_BITS;
        let (offset, len) = (number::<8>(code, at + 24)?, number::<8>(code, at + 32)?);
        if is_empty {
            Some(true)
        } else {
            within(code, offset, len)
        }
    };
    Some(count > 0 && names < count && (0..count).all(|index| fits(index) == Some(true)))
}

/// `None` if a table of `count` entries does not lie within the bytes.
fn table_fits(code: &[u8], start: u64, size: u64, count: u64, least: u64) -> Option<()> {
    let fits = within(code, start, size * count)?;
    (count == 0 || (fits && size >= least)).then_some(())
}

fn within(code: &[u8], offset: u64, len: u64) -> Option<bool> {
    Some(offset.checked_add(len)? <= code.len() as u64)
}

/// The little-endian number of `N` bytes at `offset`.
fn number<const N: usize>(code: &[u8], offset: u64) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    let bytes = code.get(start..)?.first_chunk::<N>()?;
    let mut wide = [0; 8];
    wide[..N].copy_from_slice(bytes);
    Some(u64::from_le_bytes(wide))
}

/// Bytes of the file's header, of an entry of the program table, and of one of the section table.
const HEADER: usize = 64;
const PROGRAM: u64 = 56;
const SECTION: u64 = 64;

/// The type of a section without bytes in the file.
const NO_BITS: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of a header, 16 bytes of a section, and a table of two sections.
    fn file() -> Vec<u8> {
        let mut file = vec![0u8; HEADER + 16 + 2 * SECTION as usize];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01");
        put(40, &80u64.to_le_bytes());
        put(58, &(SECTION as u16).to_le_bytes());
        put(60, &2u16.to_le_bytes());
        put(62, &1u16.to_le_bytes());
        put(80 + 64 + 24, &64u64.to_le_bytes());
        put(80 + 64 + 32, &16u64.to_le_bytes());
        file
    }

    #[test]
    fn a_whole_file_is_taken_and_no_part_of_it() {
        let file = file();
        assert!(is_whole(&file));
        for len in 0..file.len() {
            assert!(!is_whole(&file[..len]), "{len} bytes");
        }
        assert!(!is_whole(
            b"\x7fELF\x02\x01 is not all that it takes to be a file of machine code.."
        ));
    }

    #[test]
    fn numbers_beyond_the_file_are_refused() {
        for at in [40, 80 + 64 + 24, 80 + 64 + 32] {
            for value in [u64::MAX, u64::MAX / 2, 209] {
                let mut file = file();
                file[at..at + 8].copy_from_slice(&value.to_le_bytes());
                assert!(!is_whole(&file), "{value} at {at}");
            }
        }
        let mut file = file();
        file[60..62].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(!is_whole(&file));
    }
}
