//! The one thing read from EXIF: the orientation. Everything is checked; damage means "upright".

use super::orient::Orientation;

/// The orientation tag.
const ORIENTATION: u16 = 0x0112;
/// The TIFF type of a 16-bit number.
const SHORT: u16 = 3;

/// The orientation in an EXIF block, which is a small TIFF (the `Exif\0\0` prefix is skipped when
/// it is there). `None` when there is no tag or the block is damaged.
pub(super) fn orientation(block: &[u8]) -> Option<Orientation> {
    let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let big = match tiff.get(..4)? {
        b"II*\0" => false,
        b"MM\0*" => true,
        _ => return None,
    };
    let u16_at = |at: usize| -> Option<u16> {
        let b: [u8; 2] = tiff.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) })
    };
    let u32_at = |at: usize| -> Option<u32> {
        let b: [u8; 4] = tiff.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if big { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    };
    let directory = usize::try_from(u32_at(4)?).ok()?;
    // Only the first directory describes the picture; the second is its thumbnail.
    for i in 0..usize::from(u16_at(directory)?) {
        let entry = directory.checked_add(2 + 12 * i)?;
        if u16_at(entry)? == ORIENTATION {
            let one_short = u16_at(entry + 2)? == SHORT && u32_at(entry + 4)? == 1;
            return if one_short { Orientation::from_tag(u32::from(u16_at(entry + 8)?)) } else { None };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(big: bool, value: u16) -> Vec<u8> {
        let mut b = Vec::from(if big { *b"MM\0*" } else { *b"II*\0" });
        let w16 = |b: &mut Vec<u8>, v: u16| b.extend(if big { v.to_be_bytes() } else { v.to_le_bytes() });
        let w32 = |b: &mut Vec<u8>, v: u32| b.extend(if big { v.to_be_bytes() } else { v.to_le_bytes() });
        w32(&mut b, 8);
        w16(&mut b, 1);
        w16(&mut b, ORIENTATION);
        w16(&mut b, SHORT);
        w32(&mut b, 1);
        w16(&mut b, value);
        w16(&mut b, 0);
        w32(&mut b, 0);
        b
    }

    #[test]
    fn both_byte_orders_and_every_prefix() {
        for big in [false, true] {
            let b = block(big, 6);
            assert_eq!(orientation(&b), Orientation::from_tag(6));
            assert_eq!(orientation(&[b"Exif\0\0", &b[..]].concat()), Orientation::from_tag(6));
            for n in 0..20 {
                assert_eq!(orientation(&b[..n]), None);
            }
        }
        assert_eq!(orientation(&block(true, 9)), None);
        assert_eq!(orientation(&block(false, 0)), None);
        let mut wild = block(false, 3);
        wild[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(orientation(&wild), None);
    }
}
