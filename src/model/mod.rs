//! Networks as graph builders, read from each checkpoint's own config.
//!
//! A network is parsed once ([`unet::UNet2DConditionModel::from_config`] and its siblings) and then builds
//! graphs for any [`Extents`]. Concatenation, upsampling and residual additions are written plainly; the
//! passes of `graph` fold them into the kernels around them. Names of values and tensors are diffusers'.

mod blocks;
pub mod casarbi;
mod clip;
pub mod clip_text;
pub mod clip_vision;
mod config;
pub mod controlnet;
pub mod depth_anything;
mod dinov2;
pub mod edsr;
mod ignored;
pub mod liif;
pub mod pictures;
mod resnet;
pub mod sam;
pub mod sarm;
pub mod spixel_fcn;
pub mod tokenizer;
mod transformer;
pub mod unet;
mod unicode;
pub mod vae;

pub use ignored::{IGNORED, IGNORED_TRANSFORMERS};

/// What fixes a graph beside the network and the storage type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extents {
    /// Items per launch.
    pub batch: u32,
    /// Rows of the network's window input.
    pub height: u32,
    /// Columns of the network's window input.
    pub width: u32,
    /// Rows of the tables over steps.
    pub steps: u32,
    /// Rows of the tables over contexts.
    pub contexts: u32,
    /// Tokens of one context.
    pub tokens: u32,
}

impl Extents {
    /// One item, one step, and one context of 77 tokens (the text encoders' length).
    pub fn of(height: u32, width: u32) -> Extents {
        Extents { batch: 1, height, width, steps: 1, contexts: 1, tokens: 77 }
    }
}

/// Parameters of a graph's checkpoint tensors.
pub fn parameters(graph: &crate::graph::Graph) -> u64 {
    graph.weights.iter().map(|w| w.shape.iter().product::<u64>()).sum()
}

#[cfg(test)]
pub(crate) mod published {
    //! The configs of published networks, as their checkpoints carry them.

    pub(crate) const SD21_UNET: &str = r#"{"_class_name":"UNet2DConditionModel","_diffusers_version":"0.10.0.dev0",
        "act_fn":"silu","attention_head_dim":[5,10,20,20],"block_out_channels":[320,640,1280,1280],
        "center_input_sample":false,"cross_attention_dim":1024,"down_block_types":["CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D","CrossAttnDownBlock2D","DownBlock2D"],"downsample_padding":1,
        "dual_cross_attention":false,"flip_sin_to_cos":true,"freq_shift":0,"in_channels":4,"layers_per_block":2,
        "mid_block_scale_factor":1,"norm_eps":1e-05,"norm_num_groups":32,"num_class_embeds":null,
        "only_cross_attention":false,"out_channels":4,"sample_size":64,"up_block_types":["UpBlock2D",
        "CrossAttnUpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D"],"use_linear_projection":true}"#;

    pub(crate) const TURBO_UNET: &str = r#"{"_class_name":"UNet2DConditionModel","_diffusers_version":"0.24.0.dev0",
        "act_fn":"silu","addition_embed_type":null,"addition_embed_type_num_heads":64,"addition_time_embed_dim":null,
        "attention_head_dim":[5,10,20,20],"attention_type":"default","block_out_channels":[320,640,1280,1280],
        "center_input_sample":false,"class_embed_type":null,"class_embeddings_concat":false,"conv_in_kernel":3,
        "conv_out_kernel":3,"cross_attention_dim":1024,"cross_attention_norm":null,"down_block_types":[
        "CrossAttnDownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D","DownBlock2D"],"downsample_padding":1,
        "dropout":0.0,"dual_cross_attention":false,"encoder_hid_dim":null,"encoder_hid_dim_type":null,
        "flip_sin_to_cos":true,"freq_shift":0,"in_channels":4,"layers_per_block":2,
        "mid_block_only_cross_attention":null,"mid_block_scale_factor":1,"mid_block_type":"UNetMidBlock2DCrossAttn",
        "norm_eps":1e-05,"norm_num_groups":32,"num_attention_heads":null,"num_class_embeds":null,
        "only_cross_attention":false,"out_channels":4,"projection_class_embeddings_input_dim":null,
        "resnet_out_scale_factor":1.0,"resnet_skip_time_act":false,"resnet_time_scale_shift":"default",
        "reverse_transformer_layers_per_block":null,"sample_size":64,"time_cond_proj_dim":null,
        "time_embedding_act_fn":null,"time_embedding_dim":null,"time_embedding_type":"positional",
        "timestep_post_act":null,"transformer_layers_per_block":1,"up_block_types":["UpBlock2D",
        "CrossAttnUpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D"],"upcast_attention":null,
        "use_linear_projection":true}"#;

    pub(crate) const SD15_UNET: &str = r#"{"_class_name":"UNet2DConditionModel","_diffusers_version":"0.6.0",
        "act_fn":"silu","attention_head_dim":8,"block_out_channels":[320,640,1280,1280],"center_input_sample":false,
        "cross_attention_dim":768,"down_block_types":["CrossAttnDownBlock2D","CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D","DownBlock2D"],"downsample_padding":1,"flip_sin_to_cos":true,"freq_shift":0,
        "in_channels":4,"layers_per_block":2,"mid_block_scale_factor":1,"norm_eps":1e-05,"norm_num_groups":32,
        "out_channels":4,"sample_size":64,"up_block_types":["UpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D"]}"#;

    pub(crate) const SD_VAE: &str = r#"{"_class_name":"AutoencoderKL","_diffusers_version":"0.8.0","act_fn":"silu",
        "block_out_channels":[128,256,512,512],"down_block_types":["DownEncoderBlock2D","DownEncoderBlock2D",
        "DownEncoderBlock2D","DownEncoderBlock2D"],"in_channels":3,"latent_channels":4,"layers_per_block":2,
        "norm_num_groups":32,"out_channels":3,"sample_size":768,"up_block_types":["UpDecoderBlock2D",
        "UpDecoderBlock2D","UpDecoderBlock2D","UpDecoderBlock2D"]}"#;

    pub(crate) const SD21_CONTROLNET: &str = r#"{"_class_name":"ControlNetModel","_diffusers_version":"0.14.0",
        "act_fn":"silu","attention_head_dim":[5,10,20,20],"block_out_channels":[320,640,1280,1280],
        "class_embed_type":null,"conditioning_embedding_out_channels":[16,32,96,256],
        "controlnet_conditioning_channel_order":"rgb","cross_attention_dim":1024,"down_block_types":[
        "CrossAttnDownBlock2D","CrossAttnDownBlock2D","CrossAttnDownBlock2D","DownBlock2D"],"downsample_padding":1,
        "flip_sin_to_cos":true,"freq_shift":0,"in_channels":4,"layers_per_block":2,"mid_block_scale_factor":1,
        "norm_eps":1e-05,"norm_num_groups":32,"num_class_embeds":null,"only_cross_attention":false,
        "projection_class_embeddings_input_dim":null,"resnet_time_scale_shift":"default","upcast_attention":false,
        "use_linear_projection":true}"#;

    pub(crate) const SD15_TEXT: &str = r#"{"_name_or_path":"openai/clip-vit-large-patch14","architectures":[
        "CLIPTextModel"],"attention_dropout":0.0,"bos_token_id":0,"dropout":0.0,"eos_token_id":2,"hidden_act":
        "quick_gelu","hidden_size":768,"initializer_factor":1.0,"initializer_range":0.02,"intermediate_size":3072,
        "layer_norm_eps":1e-05,"max_position_embeddings":77,"model_type":"clip_text_model","num_attention_heads":12,
        "num_hidden_layers":12,"pad_token_id":1,"projection_dim":768,"torch_dtype":"float32",
        "transformers_version":"4.22.0.dev0","vocab_size":49408}"#;

    pub(crate) const SD21_TEXT: &str = r#"{"architectures":["CLIPTextModel"],"attention_dropout":0.0,
        "bos_token_id":0,"dropout":0.0,"eos_token_id":2,"hidden_act":"gelu","hidden_size":1024,
        "initializer_factor":1.0,"initializer_range":0.02,"intermediate_size":4096,"layer_norm_eps":1e-05,
        "max_position_embeddings":77,"model_type":"clip_text_model","num_attention_heads":16,"num_hidden_layers":23,
        "pad_token_id":1,"projection_dim":512,"torch_dtype":"float32","transformers_version":"4.25.0.dev0",
        "vocab_size":49408}"#;

    pub(crate) const VIT_L14: &str = r#"{"architectures":["CLIPVisionModelWithProjection"],"attention_dropout":0.0,
        "dropout":0.0,"hidden_act":"quick_gelu","hidden_size":1024,"image_size":224,"initializer_factor":1.0,
        "initializer_range":0.02,"intermediate_size":4096,"layer_norm_eps":1e-05,"model_type":"clip_vision_model",
        "num_attention_heads":16,"num_channels":3,"num_hidden_layers":24,"patch_size":14,"projection_dim":768,
        "torch_dtype":"float32","transformers_version":"4.24.0"}"#;

    pub(crate) const DEPTH_ANYTHING_S: &str = r#"{"_commit_hash":null,
        "architectures":["DepthAnythingForDepthEstimation"],"backbone":null,"backbone_config":{
        "architectures":["Dinov2Model"],"hidden_size":384,"image_size":518,"model_type":"dinov2",
        "num_attention_heads":6,"out_features":["stage9","stage10","stage11","stage12"],"out_indices":[9,10,11,12],
        "patch_size":14,"reshape_hidden_states":false,"torch_dtype":"float32"},"fusion_hidden_size":64,
        "head_hidden_size":32,"head_in_index":-1,"initializer_range":0.02,"model_type":"depth_anything",
        "neck_hidden_sizes":[48,96,192,384],"patch_size":14,"reassemble_factors":[4,2,1,0.5],
        "reassemble_hidden_size":384,"torch_dtype":"float32","transformers_version":null,
        "use_pretrained_backbone":false}"#;

    pub(crate) const SAM_VIT_B: &str = r#"{"attention_dropout":0.0,"dropout":0.0,"global_attn_indexes":[2,5,8,11],
        "hidden_act":"gelu","hidden_size":768,"image_size":1024,"initializer_factor":1.0,"initializer_range":1e-10,
        "intermediate_size":6144,"layer_norm_eps":1e-06,"mlp_dim":3072,"mlp_ratio":4.0,"model_type":"",
        "num_attention_heads":12,"num_channels":3,"num_hidden_layers":12,"num_pos_feats":128,"output_channels":256,
        "patch_size":16,"projection_dim":512,"qkv_bias":true,"use_abs_pos":true,"use_rel_pos":true,
        "window_size":14}"#;
}
