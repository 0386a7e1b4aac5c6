"""Architectures by name: the published configs, field by field as their files carry them, and tiny ones for the
committed references."""

import copy

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel, DepthAnythingConfig,
    DepthAnythingForDepthEstimation, SamVisionConfig, SamVisionModel,
)

from spixel import SpixelNet1l_bn

# Kind of network: its class, and its folder and weight file in a published pipeline.
KINDS = {
    "unet": (UNet2DConditionModel, "unet", "diffusion_pytorch_model.safetensors"),
    "vae": (AutoencoderKL, "vae", "diffusion_pytorch_model.safetensors"),
    "controlnet": (ControlNetModel, "controlnet", "diffusion_pytorch_model.safetensors"),
    "text": (CLIPTextModel, "text_encoder", "model.safetensors"),
    "vision": (CLIPVisionModel, "image_encoder", "model.safetensors"),
    "superpixel": (SpixelNet1l_bn, "superpixel", "diffusion_pytorch_model.safetensors"),
    "depth": (DepthAnythingForDepthEstimation, "depth", "model.safetensors"),
    "sam": (SamVisionModel, "sam", "model.safetensors"),
}
TRANSFORMERS = {
    "text": CLIPTextConfig, "vision": CLIPVisionConfig, "depth": DepthAnythingConfig, "sam": SamVisionConfig,
}

DOWN = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
UP = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]


def diffusers_config(class_name, version, **fields):
    return {"_class_name": class_name, "_diffusers_version": version, **fields}


# ---- published ----

SD_BLOCKS = dict(
    act_fn="silu", block_out_channels=[320, 640, 1280, 1280], down_block_types=DOWN, downsample_padding=1,
    flip_sin_to_cos=True, freq_shift=0, in_channels=4, layers_per_block=2, mid_block_scale_factor=1, norm_eps=1e-05,
    norm_num_groups=32,
)
SD_UNET = dict(SD_BLOCKS, center_input_sample=False, out_channels=4, sample_size=64, up_block_types=UP)
# In these files attention_head_dim is the number of heads.
SD2 = dict(attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True)
SD2_EXTRA = dict(SD2, dual_cross_attention=False, only_cross_attention=False)
TURBO_NULLS = [
    "addition_embed_type", "addition_time_embed_dim", "class_embed_type", "cross_attention_norm", "encoder_hid_dim",
    "encoder_hid_dim_type", "mid_block_only_cross_attention", "num_attention_heads", "num_class_embeds",
    "projection_class_embeddings_input_dim", "reverse_transformer_layers_per_block", "time_cond_proj_dim",
    "time_embedding_act_fn", "time_embedding_dim", "timestep_post_act", "upcast_attention",
]
TURBO = dict(
    SD2_EXTRA, **dict.fromkeys(TURBO_NULLS), addition_embed_type_num_heads=64, attention_type="default",
    class_embeddings_concat=False, conv_in_kernel=3, conv_out_kernel=3, dropout=0.0,
    mid_block_type="UNetMidBlock2DCrossAttn", resnet_out_scale_factor=1.0, resnet_skip_time_act=False,
    resnet_time_scale_shift="default", time_embedding_type="positional", transformer_layers_per_block=1,
)
CONTROLNET = dict(
    SD_BLOCKS, class_embed_type=None, conditioning_embedding_out_channels=[16, 32, 96, 256],
    controlnet_conditioning_channel_order="rgb", num_class_embeds=None, only_cross_attention=False,
    projection_class_embeddings_input_dim=None, resnet_time_scale_shift="default", upcast_attention=False,
)
SD_VAE = dict(
    act_fn="silu", block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4, in_channels=3,
    latent_channels=4, layers_per_block=2, norm_num_groups=32, out_channels=3, up_block_types=["UpDecoderBlock2D"] * 4,
)
CLIP = dict(
    attention_dropout=0.0, dropout=0.0, initializer_factor=1.0, initializer_range=0.02, layer_norm_eps=1e-05,
)
CLIP_TEXT = dict(
    CLIP, architectures=["CLIPTextModel"], bos_token_id=0, eos_token_id=2, max_position_embeddings=77,
    model_type="clip_text_model", pad_token_id=1, vocab_size=49408,
)

PUBLISHED = {
    "sd15_unet": ("unet", diffusers_config(
        "UNet2DConditionModel", "0.6.0", **SD_UNET, attention_head_dim=8, cross_attention_dim=768)),
    "sd20_base_unet": ("unet", diffusers_config("UNet2DConditionModel", "0.8.0", **SD_UNET, **SD2_EXTRA)),
    "sd21_base_unet": ("unet", diffusers_config(
        "UNet2DConditionModel", "0.10.0.dev0", **SD_UNET, **SD2_EXTRA, num_class_embeds=None)),
    # The 768-pixel network, trained on v: the scheduler's file says so, this one asks for f32 attention.
    "sd21_unet": ("unet", diffusers_config(
        "UNet2DConditionModel", "0.10.0.dev0", **dict(SD_UNET, sample_size=96), **SD2_EXTRA, num_class_embeds=None,
        upcast_attention=True)),
    "sd_turbo_unet": ("unet", diffusers_config("UNet2DConditionModel", "0.24.0.dev0", **SD_UNET, **TURBO)),
    "sd_vae": ("vae", diffusers_config("AutoencoderKL", "0.6.0", **SD_VAE, sample_size=512)),
    "sd_turbo_vae": ("vae", diffusers_config(
        "AutoencoderKL", "0.24.0.dev0", **SD_VAE, sample_size=768, force_upcast=True, scaling_factor=0.18215)),
    "sd15_controlnet": ("controlnet", diffusers_config(
        "ControlNetModel", "0.14.0.dev0", **CONTROLNET, attention_head_dim=8, cross_attention_dim=768,
        use_linear_projection=False)),
    "sd21_controlnet": ("controlnet", diffusers_config("ControlNetModel", "0.14.0", **CONTROLNET, **SD2)),
    "clip_l_text": ("text", dict(
        CLIP_TEXT, hidden_act="quick_gelu", hidden_size=768, intermediate_size=3072, num_attention_heads=12,
        num_hidden_layers=12, projection_dim=768)),
    "openclip_h_text": ("text", dict(
        CLIP_TEXT, hidden_act="gelu", hidden_size=1024, intermediate_size=4096, num_attention_heads=16,
        num_hidden_layers=23, projection_dim=512)),
    "clip_l_vision": ("vision", dict(
        CLIP, architectures=["CLIPVisionModel"], hidden_act="quick_gelu", hidden_size=1024, image_size=224,
        intermediate_size=4096, model_type="clip_vision_model", num_attention_heads=16, num_channels=3,
        num_hidden_layers=24, patch_size=14, projection_dim=768)),
}


def spixel(widths, **fields):
    """SpixelFCN was published without a config: this one is the engine's own."""
    return "superpixel", dict(_class_name="SpixelNet1l_bn", block_out_channels=list(widths), **fields)


def depth_anything(hidden, heads, layers, neck, fusion, image=518, patch=14, head=32, **backbone):
    """The published file, field by field, for any size: the last four layers' tokens go on."""
    indices = list(range(layers - 3, layers + 1))
    return "depth", dict(
        architectures=["DepthAnythingForDepthEstimation"], backbone=None, backbone_config=dict(
            architectures=["Dinov2Model"], hidden_size=hidden, image_size=image, model_type="dinov2",
            num_attention_heads=heads, num_hidden_layers=layers, out_features=[f"stage{i}" for i in indices],
            out_indices=indices, patch_size=patch, reshape_hidden_states=False, torch_dtype="float32", **backbone),
        fusion_hidden_size=fusion, head_hidden_size=head, head_in_index=-1, initializer_range=0.02,
        model_type="depth_anything", neck_hidden_sizes=neck, patch_size=patch, reassemble_factors=[4, 2, 1, 0.5],
        reassemble_hidden_size=hidden, torch_dtype="float32", use_pretrained_backbone=False)


def sam_vision(hidden, heads, layers, wide, **fields):
    return "sam", dict(
        architectures=["SamVisionModel"], attention_dropout=0.0, global_attn_indexes=wide, hidden_act="gelu",
        hidden_size=hidden, initializer_range=1e-10, layer_norm_eps=1e-06, mlp_ratio=4.0, model_type="sam_vision_model",
        num_attention_heads=heads, num_channels=3, num_hidden_layers=layers, num_pos_feats=128, qkv_bias=True,
        use_abs_pos=True, use_rel_pos=True,
        **{**dict(image_size=1024, mlp_dim=4 * hidden, output_channels=256, patch_size=16, window_size=14), **fields})


PUBLISHED |= {
    "spixel_fcn": spixel([16, 32, 64, 128, 256]),
    # widths pruned by 35%
    "spixel_fcn_pruned": spixel([10, 21, 42, 83, 166]),
    "depth_anything_s": depth_anything(384, 6, 12, [48, 96, 192, 384], 64),
    "depth_anything_b": depth_anything(768, 12, 12, [96, 192, 384, 768], 128),
    "depth_anything_l": depth_anything(1024, 16, 24, [256, 512, 1024, 1024], 256),
    "sam_vit_b": sam_vision(768, 12, 12, [2, 5, 8, 11]),
    "sam_vit_l": sam_vision(1024, 16, 24, [5, 11, 17, 23]),
    "sam_vit_h": sam_vision(1280, 16, 32, [7, 15, 23, 31]),
}

# ---- tiny ----

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
# SD 1.x style: 1x1-convolution projections, one head count for all levels.
TINY_SD15 = dict(
    in_channels=4,
    block_out_channels=(16, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    norm_num_groups=4,
    attention_head_dim=2,
    cross_attention_dim=10,
)

TINY = {
    "tiny_unet_sd2": ("unet", dict(TINY_SD2, out_channels=4, up_block_types=UP[:3])),
    "tiny_unet_sd15": ("unet", dict(TINY_SD15, out_channels=4, up_block_types=UP[:2])),
    # As the network for v of SD 2.1 asks for its attention: scores in f32.
    "tiny_unet_v": (
        "unet",
        dict(
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=2,
            attention_head_dim=(1, 2),
            cross_attention_dim=12,
            use_linear_projection=True,
            upcast_attention=True,
        ),
    ),
    # Narrow enough for a latent of full size: attention at the coarse level only.
    "tiny_unet_narrow": (
        "unet",
        dict(
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=1,
            cross_attention_dim=8,
            use_linear_projection=True,
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
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            mid_block_type=None,
            norm_num_groups=2,
            cross_attention_dim=8,
            attention_head_dim=8,
        ),
    ),
    "tiny_controlnet": ("controlnet", dict(TINY_SD2, conditioning_embedding_out_channels=(8, 12))),
    "tiny_controlnet_sd15": (
        "controlnet",
        dict(TINY_SD15, block_out_channels=(8, 16), attention_head_dim=1, conditioning_embedding_out_channels=(4, 6, 8)),
    ),
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
    # As many levels as the published one.
    "tiny_vae_deep": (
        "vae",
        dict(
            block_out_channels=(8, 8, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            force_upcast=False,
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
    # Widths off the pitch; levels and cells as a network for small cells has them.
    "tiny_spixel": spixel([5, 8, 12, 10, 16]),
    "tiny_spixel_flat": spixel([6, 9, 7], cell_size=4),
    # A grid of 3x3 positions, as odd as 37x37.
    "tiny_depth": depth_anything(16, 2, 4, [5, 8, 12, 16], 8, image=21, patch=7, head=6),
    # The names and the rule for positions of the network's own repository.
    "tiny_depth_original": depth_anything(
        24, 3, 5, [8, 8, 12, 16], 10, image=56, patch=14, head=8, interpolate_offset=0.1),
    # Windows of 4 on a grid of 10: the last ones are half padding.
    "tiny_sam": sam_vision(24, 3, 3, [1], image_size=40, mlp_dim=40, output_channels=12, patch_size=4, window_size=4),
    "tiny_sam_original": sam_vision(
        16, 1, 2, [1], image_size=36, mlp_dim=64, output_channels=8, patch_size=6, window_size=3),
}

ARCHITECTURES = {**PUBLISHED, **TINY}

# Whole pipelines: the networks of each folder, the scheduler's file, and the class the index names.
BETAS = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, trained_betas=None,
    steps_offset=1, clip_sample=False, set_alpha_to_one=False,
)
PIPELINES = {
    "sd15": (dict(unet="sd15_unet", vae="sd_vae", text_encoder="clip_l_text"),
             diffusers_config("PNDMScheduler", "0.6.0", **BETAS, skip_prk_steps=True)),
    "sd20-base": (dict(unet="sd20_base_unet", vae="sd_vae", text_encoder="openclip_h_text"),
                  diffusers_config("PNDMScheduler", "0.8.0", **BETAS, skip_prk_steps=True)),
    "sd21-base": (dict(unet="sd21_base_unet", vae="sd_vae", text_encoder="openclip_h_text"),
                  diffusers_config("PNDMScheduler", "0.10.0.dev0", **BETAS, skip_prk_steps=True,
                                   prediction_type="epsilon")),
    "sd21": (dict(unet="sd21_unet", vae="sd_vae", text_encoder="openclip_h_text"),
             diffusers_config("DDIMScheduler", "0.8.0", **BETAS, prediction_type="v_prediction")),
    "sd-turbo": (dict(unet="sd_turbo_unet", vae="sd_turbo_vae", text_encoder="openclip_h_text"),
                 diffusers_config("EulerDiscreteScheduler", "0.24.0.dev0", **BETAS, prediction_type="epsilon",
                                  timestep_spacing="trailing", interpolation_type="linear", use_karras_sigmas=False)),
    "tiny": (dict(unet="tiny_unet_sd2", vae="tiny_vae"),
             diffusers_config("EulerDiscreteScheduler", "0.24.0.dev0", **BETAS, prediction_type="epsilon",
                              timestep_spacing="trailing", interpolation_type="linear", use_karras_sigmas=False)),
}


def kind_of(config):
    """The kind of network a config.json belongs to."""
    name = config.get("_class_name") or config["architectures"][0].replace("WithProjection", "")
    return next(kind for kind, (cls, _, _) in KINDS.items() if cls.__name__ == name)


def network(kind, config):
    """The untrained network of a config, its weights not yet set."""
    config = copy.deepcopy(config)  # transformers writes into the sections
    if kind in TRANSFORMERS:
        model = KINDS[kind][0](TRANSFORMERS[kind](**config))
    else:
        model = KINDS[kind][0].from_config(config)
    return model.eval().requires_grad_(False)


def build(name):
    """Kind and network of the architecture `name`, its weights not yet set."""
    kind, config = ARCHITECTURES[name]
    return kind, network(kind, config)
