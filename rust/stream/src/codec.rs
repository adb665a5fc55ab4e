//! The encoding of a frame's bytes: compressed if that makes them fewer.

use snapsync_model::{Error, Result};
use std::io;

/// Large enough for any frame, and limits the memory of a decoder.
const WINDOW_LOG: u32 = 22;
/// How many samples of a frame are compressed before all of it is, and the bytes of each.
const SAMPLES: usize = 4;
const SAMPLE: usize = 4 << 10;
/// After so many small frames in a row that did not shrink, only one in a few is tried.
const IN_VAIN: u32 = 16;
const ONE_IN: u32 = 8;

/// The values of `--compress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Compression {
    None,
    Zstd(i32),
}

impl Default for Compression {
    /// The fastest of zstd's normal levels.
    fn default() -> Self {
        Compression::Zstd(1)
    }
}

impl Compression {
    /// Parses `none` or `zstd:LEVEL`.
    pub fn parse(text: &str) -> Result<Compression> {
        if text == "none" {
            return Ok(Compression::None);
        }
        let level = match text.split_once(':') {
            Some(("zstd", level)) => level.parse().ok(),
            None if text == "zstd" => Some(1),
            _ => None,
        };
        let known = zstd::compression_level_range();
        level.filter(|level| *level != 0 && known.contains(level)).map(Compression::Zstd).ok_or_else(|| {
            Error::usage(
                format!("cannot compress by {text:?}"),
                format!("use none, or zstd:1 (fast) to zstd:{}", known.end()),
            )
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    Stored = 0,
    Zstd = 1,
}

impl Codec {
    pub(crate) fn from_number(number: u8) -> Option<Codec> {
        [Codec::Stored, Codec::Zstd].into_iter().find(|codec| *codec as u8 == number)
    }
}

/// One thread's compressor.
pub(crate) struct Compressor {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// The number of small frames since one shrank.
    in_vain: u32,
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> io::Result<Compressor> {
        let Compression::Zstd(level) = compression else {
            return Ok(Compressor { zstd: None, in_vain: 0 });
        };
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        // Levels above 19 would use a larger window, which receivers refuse.
        compressor.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG))?;
        Ok(Compressor { zstd: Some(compressor), in_vain: 0 })
    }

    /// None if storing them is as good, which samples of a large frame predict, and for small ones those
    /// before them: small files of one kind lie together.
    pub(crate) fn compress(&mut self, raw: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(compressor) = &mut self.zstd else { return Ok(None) };
        if raw.len() > 4 * SAMPLES * SAMPLE {
            let is_worth_it = is_worth_it(compressor, raw)?;
            let stored = is_worth_it.then(|| compressor.compress(raw)).transpose()?;
            return Ok(stored.filter(|stored| stored.len() < raw.len()));
        }
        self.in_vain += 1;
        if self.in_vain > IN_VAIN && !self.in_vain.is_multiple_of(ONE_IN) {
            return Ok(None);
        }
        let stored = compressor.compress(raw)?;
        let shrinks = stored.len() < raw.len();
        self.in_vain = if shrinks { 0 } else { self.in_vain };
        Ok(shrinks.then_some(stored))
    }
}

fn is_worth_it(compressor: &mut zstd::bulk::Compressor<'_>, raw: &[u8]) -> io::Result<bool> {
    let step = (raw.len() - SAMPLE) / (SAMPLES - 1);
    let mut sample = Vec::with_capacity(SAMPLES * SAMPLE);
    for at in (0..SAMPLES).map(|n| n * step) {
        sample.extend_from_slice(&raw[at..at + SAMPLE]);
    }
    // Compressed data gains nothing, and random bytes grow.
    Ok(compressor.compress(&sample)?.len() < sample.len() - sample.len() / 32)
}

/// One thread's decompressor.
pub(crate) struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    pub(crate) fn new() -> io::Result<Decompressor> {
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        decompressor.window_log_max(WINDOW_LOG)?;
        Ok(Decompressor(decompressor))
    }

    /// Exactly `length` bytes, or None. Never produces more.
    pub(crate) fn decompress(&mut self, codec: Codec, stored: Vec<u8>, length: usize) -> Option<Vec<u8>> {
        let raw = match codec {
            Codec::Stored => stored,
            Codec::Zstd => {
                // There must be one frame and nothing behind it.
                let first = zstd::zstd_safe::find_frame_compressed_size(&stored).ok()?;
                (first == stored.len()).then_some(())?;
                self.0.decompress(&stored, length).ok()?
            }
        };
        (raw.len() == length).then_some(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(length)
        .collect()
    }

    #[test]
    fn what_is_compressed_comes_back_and_what_does_not_shrink_is_stored() {
        for level in [-5, 1, 3, 22] {
            let mut compressor = Compressor::new(Compression::Zstd(level)).unwrap();
            for length in [1, 100, 4096, 1 << 20] {
                assert_eq!(compressor.compress(&noise(length)).unwrap(), None);
            }
            for raw in [vec![7; 100], vec![0; 1 << 20], noise(4096).repeat(64)] {
                let stored = compressor.compress(&raw).unwrap().unwrap();
                assert!(stored.len() < raw.len());
                let mut decompressor = Decompressor::new().unwrap();
                let back = decompressor.decompress(Codec::Zstd, stored.clone(), raw.len());
                assert_eq!(back.as_ref(), Some(&raw));
                for wrong in [raw.len() - 1, raw.len() + 1] {
                    assert_eq!(decompressor.decompress(Codec::Zstd, stored.clone(), wrong), None);
                }
                let twice = [&stored[..], &stored[..]].concat();
                assert_eq!(decompressor.decompress(Codec::Zstd, twice, raw.len()), None);
            }
        }
    }

    #[test]
    fn small_frames_that_do_not_shrink_are_tried_now_and_then_until_one_does() {
        let mut compressor = Compressor::new(Compression::default()).unwrap();
        let mut shrinks = |raw: &[u8]| compressor.compress(raw).unwrap().is_some();
        assert!((0..100).all(|_| !shrinks(&noise(4096))));
        let text = vec![7; 4096];
        let first = (0..ONE_IN).position(|_| shrinks(&text));
        assert!(first.is_some());
        assert!((0..100).all(|_| shrinks(&text)));
    }

    #[test]
    fn a_bomb_makes_no_more_than_its_frame_says() {
        let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).unwrap();
        assert!(bomb.len() < 64 << 10);
        assert_eq!(Decompressor::new().unwrap().decompress(Codec::Zstd, bomb, 1 << 20), None);
    }

    #[test]
    fn only_known_ways_to_compress_are_accepted() {
        assert_eq!(Compression::parse("none").unwrap(), Compression::None);
        assert_eq!(Compression::parse("zstd:19").unwrap(), Compression::Zstd(19));
        for wrong in ["", "gzip", "zstd:", "zstd:0", "zstd:99", "zstd:x", "none:1"] {
            assert_eq!(Compression::parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
