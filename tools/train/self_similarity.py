"""The self-similarity error that `tessera eval` prints, with gradients: src/metrics/features.rs and similarity.rs in
PyTorch. On seven photographs enlarged by 4 the two agree to five digits."""

import torch
import torch.nn.functional as F

YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
CELLS, OCTAVES = 16, 3


def cells(pictures):
    """[n, 3, h, w] in [0, 1] -> [n, CELLS, CELLS, 30]: means over cells of the sizes of ten features in each octave."""
    x = torch.einsum("kc,nchw->nkhw", pictures.new_tensor(YIQ), pictures)
    out = []
    for octave in range(OCTAVES):
        if octave:
            x = F.avg_pool2d(x, 2)
        y = x[:, :1]
        here, left, right, up, down = y[..., 1:-1, 1:-1], y[..., 1:-1, :-2], y[..., 1:-1, 2:], y[..., :-2, 1:-1], y[..., 2:, 1:-1]
        gx, gy = (right - left) / 2, (down - up) / 2
        gxx, gyy = right - 2 * here + left, down - 2 * here + up
        gxy = (y[..., 2:, 2:] - y[..., 2:, :-2] - y[..., :-2, 2:] + y[..., :-2, :-2]) / 4
        f = torch.cat([x[..., 1:-1, 1:-1], gx, gy, gxx, gyy, gxy, (gx**2 + gy**2 + 1e-10).sqrt(), gxx + gyy], 1).abs()
        h, w = f.shape[2:]
        for dim, n in ((2, h), (3, w)):
            # Cell of pixel i: floor(i CELLS / n).
            own = torch.arange(n) * CELLS // n
            mean = F.one_hot(own, CELLS).to(f).T
            mean = mean / mean.sum(1, keepdim=True)
            f = torch.einsum("kh,nchw->nckw" if dim == 2 else "kw,nchw->nchk", mean, f)
        out.append(f.permute(0, 2, 3, 1))
    return torch.cat(out, 3)


def correlations(pictures):
    """R: [n, CELLS^2, CELLS^2], cosines between cells; every feature counts relative to its mean over the picture."""
    f = cells(pictures).flatten(1, 2)
    mean = f.mean(1, keepdim=True)
    f = (f - mean) / (mean + 1e-3)
    f = F.normalize(f, dim=2, eps=1e-12)
    return f @ f.transpose(1, 2)


def self_similarity_error(a, b):
    """Root mean square of R(a) - R(b), per picture."""
    return ((correlations(a) - correlations(b)) ** 2).mean(dim=(1, 2)).sqrt()
