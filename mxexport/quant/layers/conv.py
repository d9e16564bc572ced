"""Convolutions. Groups run along input channels, separately for each kernel tap, never across taps.

Grouped and depthwise convolutions: the weight [O, I / groups, ...] is grouped along the input channels that one
output sees; a depthwise weight therefore has one element per group, and the rest of the group is padding (export and
`conversion_report` say how much). The input is grouped along all of its channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from mxexport.quant.layers.layer import QuantLayer


class _QuantConv(QuantLayer):
    def forward(self, x: Tensor) -> Tensor:
        x, weight = self._quantized(x)
        # Padding modes other than zeros copy whole pixels, so whole groups: padding after quantizing changes nothing.
        return self._conv_forward(x, weight, self.quant_bias())


class QuantConv1d(_QuantConv, nn.Conv1d):
    """`nn.Conv1d`: weight [O, I / groups, k] grouped along axis 1, input [N, I, L] along channels."""

    input_axis = -2


class QuantConv2d(_QuantConv, nn.Conv2d):
    """`nn.Conv2d`: weight [O, I / groups, kh, kw] grouped along axis 1, input [N, I, H, W] along channels."""

    input_axis = -3


class QuantConv3d(_QuantConv, nn.Conv3d):
    """`nn.Conv3d`: weight [O, I / groups, kd, kh, kw] grouped along axis 1, input [N, I, D, H, W] along channels."""

    input_axis = -4


class _QuantConvTranspose(QuantLayer):
    """Weight [I, O / groups, ...] grouped along axis 0, the input channels: the same groups as the input's."""

    weight_axis = 0
    channel_axis = 1

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        x, weight = self._quantized(x)
        spatial = len(self.kernel_size)
        extra = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, spatial, self.dilation
        )
        return type(self).function(
            x, weight, self.quant_bias(), self.stride, self.padding, extra, self.groups, self.dilation
        )


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d`: weight [I, O / groups, k] grouped along axis 0, input [N, I, L] along channels."""

    input_axis = -2
    function = staticmethod(nn.functional.conv_transpose1d)


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`: weight [I, O / groups, kh, kw] grouped along axis 0, input [N, I, H, W] along channels."""

    input_axis = -3
    function = staticmethod(nn.functional.conv_transpose2d)


class QuantConvTranspose3d(_QuantConvTranspose, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`: weight [I, O / groups, kd, kh, kw] grouped along axis 0, input along channels."""

    input_axis = -4
    function = staticmethod(nn.functional.conv_transpose3d)
