"""The geometry of convolutions and pools: strides, dilations, and all of ONNX's ways to give pads."""

from __future__ import annotations

from dataclasses import dataclass

from certnas.models.formats.onnx.site import Site


@dataclass(frozen=True)
class PoolingWindow:
    """A sliding window. Each field has one number per spatial dimension."""

    kernel: tuple[int, ...]
    """Kernel size."""
    strides: tuple[int, ...]
    """Strides."""
    dilations: tuple[int, ...]
    """Dilations."""
    before: tuple[int, ...]
    """Pads before the image."""
    after: tuple[int, ...]
    """Pads after the image."""

    @property
    def symmetric(self) -> bool:
        return self.before == self.after

    @property
    def reach(self) -> tuple[int, ...]:
        """The number of pixels that the window spans, gaps included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def for_pad(self) -> list[int]:
        """The pads in the order of torch.nn.functional.pad, last dimension first."""
        pairs = list(zip(self.before, self.after, strict=True))
        return [pad for pair in reversed(pairs) for pad in pair]

    def outputs(self, sizes: tuple[int, ...], *, ceil: bool = False) -> list[int]:
        """The number of window positions along each dimension of an image of these sizes."""
        counts = []
        for size, reach, stride, a, b in zip(
            sizes, self.reach, self.strides, self.before, self.after, strict=True
        ):
            span = size + a + b - reach
            count = -(-span // stride) + 1 if ceil else span // stride + 1
            if ceil and (count - 1) * stride >= size + a:  # no window starts in the far padding
                count -= 1
            counts.append(count)
        return counts


def window(site: Site, kernel: tuple[int, ...]) -> PoolingWindow:
    """The window of a node with this kernel size. Raises UserError for a window that does not fit."""
    n, sizes = len(kernel), site.shape()[2:]
    strides = tuple(site.ints("strides") or [1] * n)
    dilations = tuple(site.ints("dilations") or [1] * n)
    pads = site.ints("pads") or [0] * 2 * n
    if not len(strides) == len(dilations) == len(sizes) == n or len(pads) != 2 * n:
        raise site.refuse(f"strides, dilations and pads do not fit a kernel {list(kernel)} on {list(sizes)}")
    if min((*kernel, *strides, *dilations), default=0) < 1 or min(pads) < 0:
        raise site.refuse("kernel, strides and dilations must be positive, pads not negative")
    found = PoolingWindow(kernel, strides, dilations, tuple(pads[:n]), tuple(pads[n:]))
    auto = site.attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-size // stride) - 1) * stride + reach - size)
            for size, stride, reach in zip(sizes, strides, found.reach, strict=True)
        ]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (less, more) if auto == "SAME_UPPER" else (more, less)
        return PoolingWindow(kernel, strides, dilations, before, after)
    if auto == "VALID":
        return PoolingWindow(kernel, strides, dilations, (0,) * n, (0,) * n)
    if auto != "NOTSET":
        raise site.refuse(f"auto_pad {auto}")
    return found
