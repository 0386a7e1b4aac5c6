//! Properties of the tile maths over 10,000 random sizes.

use tessera::noise::{Key, below};
use tessera::tile::geometry::Tiling;
use tessera::tile::{Axis, BandBlend, BlendWeights, Grid, Placement, Ramp};

struct Draw {
    key: Key,
    count: u32,
}

impl Draw {
    fn new(seed: u64) -> Draw {
        Draw { key: Key { seed, stage: 0, purpose: 77, step: 0 }, count: 0 }
    }

    fn upto(&mut self, n: u32) -> u32 {
        self.count += 1;
        below(self.key, self.count, n)
    }
}

fn tiling(draw: &mut Draw) -> (u32, Tiling) {
    let stride = 1 << draw.upto(5);
    let tile = stride * (1 + draw.upto(40));
    let overlap = draw.upto(tile);
    let placement = [Placement::Even, Placement::Packed, Placement::Fitted][draw.upto(3) as usize];
    (1 + draw.upto(3000), Tiling { tile, overlap, stride, quantum: 64, placement })
}

#[test]
fn windows_cover_every_pixel_and_never_leave_the_picture() {
    let mut draw = Draw::new(1);
    for _ in 0..10_000 {
        let (extent, t) = tiling(&mut draw);
        let a = Axis::new(extent, &t).expect("valid");
        let context = format!("{extent} {t:?} {:?}", a.origins);
        assert_eq!(a.origins[0], 0, "{context}");
        let last = a.origins[a.count() - 1];
        assert_eq!(last + a.size, a.padded, "flush with the border: {context}");
        assert!(a.padded >= extent && (a.padded == extent || a.count() == 1), "{context}");
        assert!(a.size <= t.tile && a.size.is_multiple_of(t.stride), "{context}");
        for (i, pair) in a.origins.windows(2).enumerate() {
            assert!(pair[0] < pair[1], "windows are distinct: {context}");
            let overlap = pair[0] + a.size - pair[1];
            // The overlap asked for holds unless it left less than one stride to move by.
            assert!(pair[1] <= pair[0] + a.size, "no gap: {context}");
            assert!(overlap >= t.overlap.min(t.tile - t.stride), "overlap {overlap}: {context}");
            assert!(i == 0 || pair[0].is_multiple_of(t.stride), "aligned: {context}");
        }
    }
}

#[test]
fn weights_sum_to_one_at_every_pixel() {
    let mut draw = Draw::new(2);
    for round in 0..10_000u32 {
        let (extent, t) = tiling(&mut draw);
        // Thousands of windows over a pixel say nothing more than dozens do.
        let t = Tiling { overlap: t.overlap.min(t.tile - t.tile / 8), ..t };
        let a = Axis::new(extent, &t).expect("valid");
        let ramp = [Ramp::Linear, Ramp::Cosine, Ramp::Gaussian, Ramp::Uniform][round as usize % 4];
        let w = BlendWeights::new(&a, ramp, draw.upto(t.tile));
        let mut sums = vec![0.0f32; a.padded as usize];
        for k in 0..a.count() {
            for (i, &v) in w.of(k).iter().enumerate() {
                assert!((0.0..=1.0).contains(&v));
                sums[a.origins[k] as usize + i] += v;
            }
        }
        assert!(sums.iter().all(|&s| s == 1.0), "{ramp:?} {extent} {t:?}");
    }
}

#[test]
fn weights_of_both_axes_sum_to_one_and_bands_keep_constants() {
    let mut draw = Draw::new(3);
    for round in 0..60u32 {
        let stride = 1 << draw.upto(3);
        let tile = stride * (2 + draw.upto(12));
        let t = Tiling { tile, overlap: draw.upto(tile * 3 / 4), stride, quantum: 64, placement: Placement::Even };
        let (h, w) = (1 + draw.upto(150), 1 + draw.upto(150));
        let grid = Grid::new(h, w, &t).expect("valid");
        let ramp = [Ramp::Linear, Ramp::Cosine, Ramp::Gaussian][round as usize % 3];
        let (wy, wx) = (BlendWeights::new(&grid.rows, ramp, 0), BlendWeights::new(&grid.cols, ramp, 0));
        let mut band = BandBlend::new(h, w, 1, grid.rows.size);
        let ones = vec![1.0f32; (grid.rows.size * grid.cols.size) as usize];
        let mut seen = 0;
        for i in 0..grid.count() {
            let at = grid.window(i);
            band.finish(at.y, |y, row| {
                assert_eq!(y, seen);
                assert!(row.iter().all(|&v| v == 1.0), "{ramp:?} {h}x{w} {t:?}");
                seen += 1;
                Ok(())
            })
            .expect("in order");
            band.add([at.y, at.x], wy.of(at.row), wx.of(at.col), &ones).expect("fits");
        }
        band.finish(h, |_, row| {
            assert!(row.iter().all(|&v| v == 1.0));
            seen += 1;
            Ok(())
        })
        .expect("in order");
        assert_eq!(seen, h, "every row leaves once");
    }
}
