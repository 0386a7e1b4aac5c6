"""Configs by name: tiny ones for the committed references, published ones for full-size checks."""

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

CLASSES = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "controlnet": ControlNetModel}

# SD 2.x style: linear projections, heads per level, a context whose width is no multiple of the pitch.
TINY_SD2 = dict(
    in_channels=4,
    block_out_channels=(16, 24, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    norm_num_groups=4,
    attention_head_dim=(2, 3, 4),
    cross_attention_dim=20,
    use_linear_projection=True,
)
PUBLISHED_SD2 = dict(
    in_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    norm_num_groups=32,
    attention_head_dim=(5, 10, 20, 20),
    cross_attention_dim=1024,
    use_linear_projection=True,
)
SD_UP = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")

ARCHITECTURES = {
    "tiny_unet_sd2": ("unet", dict(TINY_SD2, out_channels=4, up_block_types=SD_UP[:3])),
    # SD 1.x style: 1x1-convolution projections, one head count for all levels.
    "tiny_unet_sd15": (
        "unet",
        dict(
            in_channels=4,
            out_channels=4,
            block_out_channels=(24, 40),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=1,
            cross_attention_dim=10,
            upcast_attention=True,
        ),
    ),
    # No attention anywhere, a middle of one resnet, a centred input, channels that are no multiple of 8.
    "tiny_unet_plain": (
        "unet",
        dict(
            in_channels=7,
            out_channels=5,
            block_out_channels=(12, 20),
            layers_per_block=(1, 2),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            mid_block_type="UNetMidBlock2D",
            norm_num_groups=4,
            norm_eps=1e-4,
            center_input_sample=True,
            flip_sin_to_cos=False,
            freq_shift=1,
            time_embedding_dim=48,
            cross_attention_dim=8,
            attention_head_dim=8,
        ),
    ),
    # One level, no middle.
    "tiny_unet_level": (
        "unet",
        dict(
            in_channels=19,
            out_channels=16,
            block_out_channels=(16,),
            layers_per_block=2,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            mid_block_type=None,
            norm_num_groups=2,
            cross_attention_dim=8,
            attention_head_dim=8,
        ),
    ),
    "tiny_controlnet": ("controlnet", dict(TINY_SD2, conditioning_embedding_out_channels=(8, 12))),
    "tiny_vae": (
        "vae",
        dict(
            block_out_channels=(16, 24),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
    ),
    "tiny_vae_plain": (
        "vae",
        dict(
            block_out_channels=(8, 12, 16),
            layers_per_block=2,
            latent_channels=5,
            norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.0,
        ),
    ),
    "sd21_unet": ("unet", dict(PUBLISHED_SD2, out_channels=4, up_block_types=SD_UP)),
    "sd15_unet": (
        "unet",
        dict(PUBLISHED_SD2, out_channels=4, up_block_types=SD_UP, use_linear_projection=False, attention_head_dim=8,
             cross_attention_dim=768),
    ),
    "sd21_controlnet": ("controlnet", dict(PUBLISHED_SD2)),
    "sd_vae": (
        "vae",
        dict(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ),
    ),
}


def build(name):
    """The untrained network `name`, its weights not yet set."""
    kind, config = ARCHITECTURES[name]
    return kind, CLASSES[kind](**config).eval().requires_grad_(False)
