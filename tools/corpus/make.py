"""Makes the pictures of tests/data/images that no Rust encoder here can make.

    python tools/corpus/make.py        # needs numpy, Pillow, tifffile

Every lossless file holds the picture of `value` below, which tests/images.rs computes again; every
lossy one has a twin `<name>.expect.png` with the pixels that Pillow (libjpeg, libwebp) reads from it.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms

OUT = Path(__file__).resolve().parents[2] / "tests" / "data" / "images"
W, H = 21, 13


def value(x, y, c, top):
    """The sample at (x, y) of channel c, in 0..=top."""
    v = x * 2749 + y * 4513 + c * 16411 + (x * y % 11) * 1879
    return v * 40503 % 65536 * top // 65535


def picture(channels, top, w=W, h=H):
    a = [[[value(x, y, c, top) for c in range(channels)] for x in range(w)] for y in range(h)]
    return np.array(a, dtype=np.uint16 if top > 255 else np.uint8)


def smooth(channels, w=40, h=28):
    """Something JPEG keeps well."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    planes = [127 + 100 * np.sin(x / 9 + c) * np.cos(y / (7 + c)) for c in range(channels)]
    return np.stack(planes, -1).round().clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------- PNG


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def pack(rows, bits):
    """Rows of samples as PNG rows without a filter."""
    out = b""
    for row in rows:
        flat = [int(v) for v in np.asarray(row).reshape(-1)]
        if bits == 16:
            body = b"".join(struct.pack(">H", v) for v in flat)
        elif bits == 8:
            body = bytes(flat)
        else:
            text = "".join(f"{v:0{bits}b}" for v in flat)
            text += "0" * (-len(text) % 8)
            body = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
        out += b"\0" + body
    return out


def png(name, samples, kind, bits, extra=b"", interlaced=False, tail=b"", size=None):
    h, w = size or samples.shape[:2]
    if interlaced:
        data = b""
        for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
            part = samples[y0::dy, x0::dx]
            if part.size:
                data += pack(part, bits)
    else:
        data = pack(samples, bits)
    ihdr = struct.pack(">IIBBBBB", w, h, bits, kind, 0, 0, int(interlaced))
    body = chunk(b"IHDR", ihdr) + extra + chunk(b"IDAT", zlib.compress(data, 9)) + tail + chunk(b"IEND", b"")
    (OUT / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def exif(orientation):
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">H", orientation) + b"\0\0\0\0\0\0"


def pngs():
    for bits in (1, 2, 4, 8, 16):
        png(f"gray{bits}", picture(1, 2**bits - 1), 0, bits)
    for bits in (8, 16):
        png(f"gray_alpha{bits}", picture(2, 2**bits - 1), 4, bits)
        png(f"rgb{bits}", picture(3, 2**bits - 1), 2, bits)
        png(f"rgba{bits}", picture(4, 2**bits - 1), 6, bits)
        png(f"rgb{bits}_interlaced", picture(3, 2**bits - 1), 2, bits, interlaced=True)
    png("gray1_interlaced", picture(1, 1), 0, 1, interlaced=True)
    # Keyed transparency: the colour of pixel (3, 2).
    p = picture(1, 255)
    png("gray8_key", p, 0, 8, chunk(b"tRNS", struct.pack(">H", int(p[2, 3, 0]))))
    p = picture(3, 65535)
    png("rgb16_key", p, 2, 16, chunk(b"tRNS", struct.pack(">HHH", *(int(v) for v in p[2, 3]))))
    for bits in (1, 2, 4, 8):
        n = min(2**bits, 200)
        palette = bytes(value(i, 5, c, 255) for i in range(n) for c in range(3))
        index = picture(1, n - 1)
        png(f"palette{bits}", index, 3, bits, chunk(b"PLTE", palette))
        alpha = bytes(value(i, 6, 0, 255) for i in range(n // 2))
        png(f"palette{bits}_alpha", index, 3, bits, chunk(b"PLTE", palette) + chunk(b"tRNS", alpha))
    index = picture(1, 6)
    index[5, 5] = 7
    png("bad_palette_index", index, 3, 8, chunk(b"PLTE", bytes(range(3 * 7))))
    for o in range(1, 9):
        # Half of them after the pixels, where some writers put it.
        before, after = (chunk(b"eXIf", exif(o)), b"") if o % 2 else (b"", chunk(b"eXIf", exif(o)))
        png(f"orientation{o}", picture(3, 255, 6, 4), 2, 8, before, tail=after)
    bomb = zlib.compress(bytes(64 << 20), 9)
    png("icc_bomb", picture(1, 255), 0, 8, chunk(b"iCCP", b"bomb\0\0" + bomb))
    white = zlib.compressobj(9)
    body = b"".join(white.compress(bytes(1 + 3 * 20000)) for _ in range(200)) + white.flush()
    ihdr = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    (OUT / "bad_short_of_rows.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


# ---------------------------------------------------------------- JPEG


def jpeg(name, samples, mode, expect=None, **options):
    image = Image.frombytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    (OUT / f"{name}.jpg").write_bytes(buffer.getvalue())
    if expect is None:
        expect = Image.open(io.BytesIO(buffer.getvalue()))
        expect = expect.convert("RGB") if mode == "CMYK" else expect
    expect.save(OUT / f"{name}.expect.png", optimize=True)


def jpegs():
    rgb = smooth(3)
    jpeg("gray", smooth(1), "L")
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        jpeg(f"baseline_{name}", rgb, "RGB", subsampling=subsampling)
        jpeg(f"progressive_{name}", rgb, "RGB", subsampling=subsampling, progressive=True)
    jpeg("restart", rgb, "RGB", subsampling=2, restart_marker_blocks=2)
    jpeg("plain_rgb", rgb, "RGB", keep_rgb=True)
    jpeg("cmyk", smooth(4), "CMYK")
    jpeg("tiny", rgb[:1, :1].copy(), "RGB")
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    jpeg("icc", rgb, "RGB", subsampling=0, icc_profile=icc)
    for o in range(1, 9):
        e = Image.Exif()
        e[0x0112] = o
        flat = np.zeros((16, 24, 3), np.uint8)
        # Four corners of distinct greys on flat 8x8 blocks: what turning does is plain to see.
        flat[:8, :8], flat[:8, 16:], flat[8:, :8], flat[8:, 16:] = 40, 90, 150, 210
        Image.fromarray(flat).save(OUT / f"orientation{o}.jpg", quality=95, exif=e)


# ---------------------------------------------------------------- TIFF


def tiffs():
    rgb8, rgb16 = picture(3, 255), picture(3, 65535)
    for name, compression in (("none", None), ("lzw", "tiff_lzw"), ("deflate", "tiff_adobe_deflate"), ("packbits", "packbits")):
        Image.fromarray(rgb8).save(OUT / f"rgb8_{name}.tif", compression=compression)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture(1, 255)[..., 0]).save(OUT / "gray8_icc.tif", icc_profile=icc)
    Image.fromarray(picture(1, 1)[..., 0].astype(bool)).save(OUT / "gray1.tif")
    Image.frombytes("CMYK", (W, H), picture(4, 255).tobytes()).save(OUT / "cmyk8.tif")
    Image.fromarray(rgb8).quantize(16).save(OUT / "bad_palette.tif")
    jpeg = OUT / "jpeg.tif"
    Image.fromarray(smooth(3)).save(jpeg, compression="jpeg", quality=90)
    Image.open(jpeg).convert("RGB").save(OUT / "jpeg_tif.expect.png", optimize=True)

    def write(name, data, **options):
        photometric = "rgb" if data.shape[-1] >= 3 and data.ndim == 3 else "minisblack"
        options = {"photometric": photometric, "metadata": None, "software": False, **options}
        tifffile.imwrite(OUT / f"{name}.tif", data, **options)

    write("rgb16_big_endian", rgb16, byteorder=">")
    write("rgb16_bigtiff", rgb16, bigtiff=True, compression="adobe_deflate", rowsperstrip=4)
    write("rgb8_tiled", rgb8, tile=(16, 16))
    write("rgb16_planar", np.moveaxis(rgb16, -1, 0).copy(), planarconfig="separate", photometric="rgb", rowsperstrip=5)
    write("gray16", picture(1, 65535)[..., 0])
    write("gray16_white_is_zero", 65535 - picture(1, 65535)[..., 0], photometric="miniswhite")
    write("gray_alpha8", picture(2, 255), planarconfig="contig", extrasamples=["unassalpha"])
    write("rgba16", picture(4, 65535), extrasamples=["unassalpha"])
    # Alpha 255, 128 and 0, colour already multiplied.
    p = picture(4, 255)
    p[..., 3] = np.array([255, 128, 0], np.uint8)[np.arange(W) % 3][None]
    multiplied = p.copy()
    multiplied[..., :3] = (p[..., :3].astype(int) * p[..., 3:] + 127) // 255
    write("rgba8_premultiplied", multiplied, extrasamples=["assocalpha"])
    wide = (picture(3, 65535).astype(np.float64) / 65535 * 2 - 0.5).astype(np.float32)
    write("rgb_f32", wide)
    write("rgb_f16", wide.astype(np.float16))
    write("gray_u32", (picture(1, 65535)[..., 0].astype(np.uint32) * 65537))
    write("bad_int16", (picture(1, 65535)[..., 0].astype(np.int32) - 32768).astype(np.int16))
    write("two_pages", np.stack([picture(1, 255)[..., 0]] * 2), photometric="minisblack")
    for o in range(1, 9):
        write(f"orientation{o}", picture(3, 255, 6, 4), extratags=[(274, "H", 1, o, True)])


# ---------------------------------------------------------------- WebP


def webp(name, samples, mode, twin=False, **options):
    Image.fromarray(samples, mode).save(OUT / f"{name}.webp", **options)
    if twin:
        Image.open(OUT / f"{name}.webp").convert(mode).save(OUT / f"{name}_webp.expect.png", optimize=True)


def webps():
    # Exact: Pillow would change the colour of pixels that nobody sees.
    webp("rgb_lossless", picture(3, 255), "RGB", lossless=True, exact=True)
    webp("rgba_lossless", picture(4, 255), "RGBA", lossless=True, exact=True)
    webp("rgb_lossy", smooth(3), "RGB", twin=True, quality=90)
    webp("rgba_lossy", smooth(4), "RGBA", twin=True, quality=90, exact=True)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    webp("icc", picture(3, 255), "RGB", lossless=True, icc_profile=icc)
    for o in (1, 3, 6):
        e = Image.Exif()
        e[0x0112] = o
        webp(f"orientation{o}", picture(3, 255, 6, 4), "RGB", lossless=True, exif=e)
    frames = [Image.fromarray(picture(3, top)) for top in (255, 127)]
    frames[0].save(OUT / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    pngs()
    jpegs()
    tiffs()
    webps()
    total = sum(p.stat().st_size for p in OUT.iterdir())
    print(len(list(OUT.iterdir())), "files,", total, "bytes")
