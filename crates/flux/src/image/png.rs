//! PNG files: written with the request inside, read as PIL's `convert("RGB")` reads them.
//!
//! A file appears whole or not at all: it is written under a temporary name in
//! the same folder and then renamed.

use std::fs::File;
use std::io::{BufWriter, Cursor, Write};
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, Encoder, Limits, Transformations};
use tempfile::NamedTempFile;

use super::{CHANNELS, Image, byte_len};
use crate::files;
use crate::{Error, Result};

/// Text that travels inside a PNG.
#[derive(Debug, Clone, Copy, Default)]
pub struct Metadata<'a> {
    /// The request as JSON, kept in an iTXt chunk named `tintype`.
    pub request: Option<&'a str>,
    /// The request for people to read, kept in an iTXt chunk named `parameters`.
    pub parameters: Option<&'a str>,
}

impl Image {
    /// Writes the picture as a PNG, in place of what is at `path`.
    ///
    /// # Errors
    /// [`Error::Write`]; nothing is left behind then.
    pub fn write_png(&self, path: &Path, metadata: Metadata<'_>) -> Result<()> {
        let failed = |source| Error::Write {
            path: path.to_owned(),
            source,
        };
        let bytes = self.to_png(metadata).map_err(failed)?;
        let mut file = temporary_beside(path).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Reads a PNG of any kind; transparency is dropped, grey and palettes become RGB.
    ///
    /// Of 16-bit colours the upper half is kept, and 16-bit grey is cut at 255,
    /// as PIL does.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Read`], [`Error::TooLarge`], and those of
    /// [`Self::parse_png`].
    pub fn read_png(path: &Path) -> Result<Self> {
        Self::parse_png(&files::read_path(path, FILE_LIMIT)?, path)
    }

    /// Reads the bytes of a PNG as [`Self::read_png`] does; `path` is for messages only.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no whole PNG, or has too many pixels.
    pub fn parse_png(bytes: &[u8], path: &Path) -> Result<Self> {
        let failed =
            |error: png::DecodingError| Error::invalid(path, "image", "a whole png", error);
        let mut decoder =
            Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: CHUNK_LIMIT });
        decoder.set_transformations(Transformations::EXPAND);
        let mut reader = decoder.read_info().map_err(failed)?;
        let info = reader.info();
        let (width, height) = (info.width as usize, info.height as usize);
        let clipped =
            info.color_type == ColorType::Grayscale && info.bit_depth == BitDepth::Sixteen;
        byte_len(width, height).map_err(|_| {
            Error::invalid(
                path,
                "image",
                "a picture of believable size",
                format!("{width} × {height} pixels"),
            )
        })?;
        let size = reader.output_buffer_size().unwrap_or(usize::MAX);
        if size > BUFFER_LIMIT {
            return Err(Error::invalid(
                path,
                "image",
                "a picture of believable size",
                format!("{size} bytes"),
            ));
        }
        let mut buffer = vec![0; size];
        let output = reader.next_frame(&mut buffer).map_err(failed)?;
        buffer.truncate(output.buffer_size());
        let samples = to_bytes(buffer, output.bit_depth, clipped);
        Self::new(width, height, to_rgb(&samples, output.color_type))
    }

    fn to_png(&self, metadata: Metadata<'_>) -> std::io::Result<Vec<u8>> {
        let side = |length: usize| u32::try_from(length).map_err(std::io::Error::other);
        let mut bytes = Vec::new();
        let writer = BufWriter::new(&mut bytes);
        let mut encoder = Encoder::new(writer, side(self.width)?, side(self.height)?);
        encoder.set_color(ColorType::Rgb);
        encoder.set_depth(BitDepth::Eight);
        let texts = [
            ("tintype", metadata.request),
            ("parameters", metadata.parameters),
        ];
        for (keyword, text) in texts {
            if let Some(text) = text {
                // A zero would end the text for those who read it.
                encoder.add_itxt_chunk(keyword.into(), text.replace('\0', "\u{fffd}"))?;
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb8)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// A file that vanishes unless it is given its name; readable as other new files are.
fn temporary_beside(path: &Path) -> std::io::Result<NamedTempFile<File>> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tintype-").suffix(".png");
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder.tempfile_in(folder.unwrap_or(Path::new(".")))
}

/// Samples of 8 bits from samples of 8 or 16.
fn to_bytes(samples: Vec<u8>, depth: BitDepth, clipped: bool) -> Vec<u8> {
    if depth != BitDepth::Sixteen {
        return samples;
    }
    let pairs = samples.as_chunks::<2>().0.iter();
    pairs
        .map(|&[high, low]| {
            if clipped && high > 0 {
                255
            } else if clipped {
                low
            } else {
                high
            }
        })
        .collect()
}

fn to_rgb(samples: &[u8], color: ColorType) -> Vec<u8> {
    let width = color.samples();
    let pixels = samples.chunks_exact(width);
    match color {
        ColorType::Grayscale | ColorType::GrayscaleAlpha => {
            pixels.flat_map(|pixel| [pixel[0]; CHANNELS]).collect()
        }
        _ => pixels
            .flat_map(|pixel| pixel[..CHANNELS].iter().copied())
            .collect(),
    }
}

/// The most that is read of a PNG, in bytes.
const FILE_LIMIT: u64 = 1 << 30;
/// The most that a decoder holds beside the picture, in bytes.
const CHUNK_LIMIT: usize = 256 << 20;
/// The most that a decoded picture takes, in bytes.
const BUFFER_LIMIT: usize = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(
        color: ColorType,
        depth: BitDepth,
        samples: &[u8],
        palette: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, 2, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if let Some(palette) = palette {
            encoder.set_palette(palette.to_vec());
            encoder.set_trns(vec![0, 255]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(samples).unwrap();
        writer.finish().unwrap();
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Image> {
        Image::parse_png(bytes, Path::new("in.png"))
    }

    #[test]
    fn every_kind_becomes_rgb() {
        use BitDepth::{Eight, One, Sixteen};
        let palette = [1, 2, 3, 4, 5, 6];
        let kinds: [(ColorType, BitDepth, &[u8], [u8; 6]); 8] = [
            (
                ColorType::Rgb,
                Eight,
                &[1, 2, 3, 4, 5, 6],
                [1, 2, 3, 4, 5, 6],
            ),
            (
                ColorType::Rgba,
                Eight,
                &[1, 2, 3, 0, 4, 5, 6, 9],
                [1, 2, 3, 4, 5, 6],
            ),
            (ColorType::Grayscale, Eight, &[7, 8], [7, 7, 7, 8, 8, 8]),
            (
                ColorType::Grayscale,
                One,
                &[0b0100_0000],
                [0, 0, 0, 255, 255, 255],
            ),
            (
                ColorType::GrayscaleAlpha,
                Eight,
                &[7, 0, 8, 1],
                [7, 7, 7, 8, 8, 8],
            ),
            (
                ColorType::Grayscale,
                Sixteen,
                &[0, 9, 1, 0],
                [9, 9, 9, 255, 255, 255],
            ),
            (
                ColorType::GrayscaleAlpha,
                Sixteen,
                &[3, 9, 0, 0, 1, 0, 0, 0],
                [3, 3, 3, 1, 1, 1],
            ),
            (ColorType::Indexed, One, &[0b0100_0000], [1, 2, 3, 4, 5, 6]),
        ];
        for (color, depth, samples, expected) in kinds {
            let palette = (color == ColorType::Indexed).then_some(&palette[..]);
            let image = parse(&encode(color, depth, samples, palette)).unwrap();
            assert_eq!(image.rgb8(), expected, "{color:?} {depth:?}");
        }
    }

    #[test]
    fn text_travels_with_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.png");
        let image = Image::new(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let metadata = Metadata {
            request: Some("{\"prompt\":\"Füchse\"}"),
            parameters: Some("Füchse\0"),
        };
        image.write_png(&path, metadata).unwrap();
        assert_eq!(Image::read_png(&path).unwrap(), image);
        let reader = Decoder::new(Cursor::new(std::fs::read(&path).unwrap()))
            .read_info()
            .unwrap();
        let texts = reader.info().utf8_text.iter();
        let texts: Vec<_> = texts
            .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()))
            .collect();
        let expected = [
            ("tintype", "{\"prompt\":\"Füchse\"}"),
            ("parameters", "Füchse\u{fffd}"),
        ];
        assert_eq!(
            texts,
            expected.map(|(keyword, text)| (keyword.into(), text.into()))
        );
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::new(1, 1, vec![1, 2, 3]).unwrap();
        let missing = folder.path().join("no such folder/out.png");
        let message = image
            .write_png(&missing, Metadata::default())
            .unwrap_err()
            .to_string();
        assert!(message.ends_with("out.png: cannot be written"), "{message}");
        // A folder cannot be replaced by a file.
        let taken = folder.path().join("taken");
        std::fs::create_dir_all(taken.join("inside")).unwrap();
        assert!(image.write_png(&taken, Metadata::default()).is_err());
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1);
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let bytes = encode(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6], None);
        // The twelve bytes of the last chunk hold no pixels.
        for length in 0..bytes.len() - 12 {
            assert!(parse(&bytes[..length]).is_err(), "{length}");
        }
        assert!(matches!(
            Image::read_png(Path::new("no such.png")),
            Err(Error::Missing { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_damage_is_an_error_or_a_picture(place in 0usize..60, value: u8) {
            let mut bytes = encode(ColorType::Rgb, BitDepth::Eight, &[1, 2, 3, 4, 5, 6], None);
            let place = place % bytes.len();
            bytes[place] = value;
            let _ = parse(&bytes);
        }
    }
}
