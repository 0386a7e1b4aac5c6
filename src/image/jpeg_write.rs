//! JPEG out, by rows: the encoder pulls rows where we push them, so it runs in a thread of its own and the
//! two meet at a short queue. Baseline, one interleaved scan: memory of some rows, whatever the height.
//!
//! The thread never touches the file: its bytes come back through a second queue, so that every file call
//! stays with the thread that writes the picture.

use super::rows::{Packer, RowCount, write_error};
use super::target::Target;
use super::{Depth, Header, RowSink};
use crate::error::{Error, Kind, Result};
use jpeg_encoder::{Encoder, EncodingError, ImageBuffer, JpegColorType, SamplingFactor, rgb_to_ycbcr};
use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

/// Quality, of 100.
const QUALITY: u8 = 95;
/// Rows that may wait for the encoder: two rows of blocks.
const ROWS_WAITING: usize = 16;
/// Compressed bytes handed over at once.
const PART: usize = 1 << 16;

pub(super) struct JpegSink {
    file: Target,
    rows: RowCount,
    // `None` once all rows are sent.
    send: Option<SyncSender<Vec<u8>>>,
    encoded: Receiver<Vec<u8>>,
    encoder: Option<JoinHandle<Result<(), EncodingError>>>,
}

impl JpegSink {
    pub(super) fn create(file: Target, header: &Header) -> Result<JpegSink> {
        let (send, rows) = sync_channel(ROWS_WAITING);
        let (bytes, encoded) = channel();
        let head = header.clone();
        let work = move || encode(&head, rows, bytes);
        let encoder = std::thread::Builder::new()
            .name("jpeg".into())
            .spawn(work)
            .map_err(|e| Error::new(Kind::Memory, "image", format!("no thread for the JPEG encoder: {e}")))?;
        Ok(JpegSink { file, rows: RowCount::new(header), send: Some(send), encoded, encoder: Some(encoder) })
    }

    /// Waits for the encoder's end; what it says when it failed.
    fn join(&mut self) -> Result<()> {
        self.send = None;
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let refused = |why: String| Error::new(Kind::Internal, "image", format!("the JPEG encoder {why}"));
        match encoder.join() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(refused(format!("refused: {e}"))),
            Err(_) => Err(refused("panicked".into())),
        }
    }
}

impl RowSink for JpegSink {
    fn write_row(&mut self, row: &[f32]) -> Result<()> {
        self.rows.next(row.len())?;
        let mut packed = vec![0u8; row.len()];
        Packer { depth: Depth::Eight, big_endian: false }.pack(row, &mut packed);
        let sent = self.send.as_ref().is_some_and(|send| send.send(packed).is_ok());
        if !sent {
            self.join()?;
            return Err(Error::new(Kind::Internal, "image", "the JPEG encoder ended early"));
        }
        while let Ok(part) = self.encoded.try_recv() {
            self.file.write_all(&part).map_err(|e| write_error(&self.file, &e))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.rows.complete()?;
        self.send = None;
        // Ends when the encoder drops its side.
        while let Ok(part) = self.encoded.recv() {
            self.file.write_all(&part).map_err(|e| write_error(&self.file, &e))?;
        }
        self.join()?;
        self.file.commit()
    }
}

/// The thread's work.
fn encode(header: &Header, rows: Receiver<Vec<u8>>, bytes: Sender<Vec<u8>>) -> Result<(), EncodingError> {
    let mut out = Parts { bytes, part: Vec::with_capacity(PART) };
    let mut encoder = Encoder::new(&mut out, QUALITY);
    // 4:4:4: colour detail is what the picture was enlarged for.
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    if let Some(icc) = &header.icc {
        encoder.add_icc_profile(icc)?;
    }
    let current = RefCell::new(Current { row: vec![0; header.row_len()], y: None, gone: false });
    let gray = header.colour.is_gray();
    encoder.encode_image(Rows { width: header.width as u16, height: header.height as u16, gray, rows, current })?;
    out.hand_over()?;
    Ok(())
}

/// Compressed bytes on their way back.
struct Parts {
    bytes: Sender<Vec<u8>>,
    part: Vec<u8>,
}

impl Parts {
    fn hand_over(&mut self) -> io::Result<()> {
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART));
        // The sink was dropped unfinished: an error ends the encoder.
        self.bytes.send(part).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Parts {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.part.extend(buf);
        if self.part.len() >= PART {
            self.hand_over()?;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The row asked for last, which is asked for again where the picture ends inside a block.
struct Current {
    row: Vec<u8>,
    y: Option<u16>,
    gone: bool,
}

/// The picture as the encoder sees it.
struct Rows {
    width: u16,
    height: u16,
    gray: bool,
    rows: Receiver<Vec<u8>>,
    current: RefCell<Current>,
}

impl ImageBuffer for Rows {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        if self.gray { JpegColorType::Luma } else { JpegColorType::Ycbcr }
    }

    fn width(&self) -> u16 {
        self.width
    }

    fn height(&self) -> u16 {
        self.height
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let mut current = self.current.borrow_mut();
        if current.y != Some(y) && !current.gone {
            match self.rows.recv() {
                Ok(row) => current.row = row,
                // The sink was dropped unfinished. There is no way to say so from here; the next bytes
                // written are refused, which ends the encoder after at most a part of nothing.
                Err(_) => current.gone = true,
            }
            current.y = Some(y);
        }
        if self.gray {
            buffers[0].extend(&current.row);
            return;
        }
        for p in current.row.chunks_exact(3) {
            let (luma, blue, red) = rgb_to_ycbcr(p[0], p[1], p[2]);
            buffers[0].push(luma);
            buffers[1].push(blue);
            buffers[2].push(red);
        }
    }
}
