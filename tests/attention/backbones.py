"""Every backbone of keras-hub, built as small as it can be, with random weights."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np

from extractkit.core.values import Array
from extractkit.inputs import InputSpec

hub = keras_hub.models

VOCABULARY = 20
TOKENS = 6
"""The length of texts. The second sample has padding from `REAL` on."""
REAL = 4
AUDIO = 3200
IMAGE = (32, 32, 3)

_TEXT = {"vocabulary_size": VOCABULARY, "num_layers": 1, "hidden_dim": 16, "intermediate_dim": 8}
_HEADS = {**_TEXT, "num_heads": 2}
_SHORT = {**_HEADS, "max_sequence_length": TOKENS}
_GROUPED = {**_TEXT, "num_query_heads": 4, "num_key_value_heads": 2}
_EXPERTS = {"num_experts": 2, "top_k": 1}
_MOE = {**_GROUPED, **_EXPERTS, "moe_intermediate_dim": 8}
_PATCHES = {"image_shape": IMAGE, "patch_size": 16, "num_layers": 1, "num_heads": 2}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
_T5_GEMMA = {
    f"{side}_{key}": value
    for side in ("encoder", "decoder")
    for key, value in {
        "hidden_dim": 16,
        "intermediate_dim": 8,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "layer_types": ["sliding_attention", "full_attention"],
    }.items()
} | {
    "vocabulary_size": VOCABULARY,
    "sliding_window": 2,
    "cross_attention_hidden_size": 16,
    "attn_logit_softcapping": 50.0,
}


def _pair(text: Any, vision: Any, **more: Any) -> dict[str, Any]:
    """The arguments of a model of images and texts."""
    return {
        "vision_encoder": vision(16, 16, 1, 2, 8, image_shape=IMAGE, name="vision_encoder"),
        "text_encoder": text(
            VOCABULARY, 16, 16, 1, 2, 8, max_sequence_length=TOKENS, name="text_encoder"
        ),
        **more,
    }


def _mit() -> Any:
    return hub.MiTBackbone(
        layerwise_depths=[1, 1],
        image_shape=IMAGE,
        hidden_dims=[4, 8],
        num_layers=2,
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[4, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
    )


def _blip2() -> Any:
    from keras_hub.src.models.blip2.blip2_custom_opt import BLIP2CustomOPT
    from keras_hub.src.models.blip2.blip2_qformer import BLIP2QFormer
    from keras_hub.src.models.blip2.blip2_vision_encoder import BLIP2VisionEncoder

    vision = BLIP2VisionEncoder(32, 16, 1, 2, 8, 8, True, True, True, True, 0.0, 1e-6, 0.02)
    former = BLIP2QFormer(
        num_query_tokens=2,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        vision_dim=8,
        cross_attention_frequency=1,
        dropout=0.0,
        layer_norm_epsilon=1e-6,
    )
    language = BLIP2CustomOPT(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        num_query_tokens=2,
        qformer_hidden_dim=8,
        max_sequence_length=TOKENS + 2,
        dropout=0.0,
        language_projection=None,
    )
    return hub.BLIP2Backbone(vision, former, language)


def _sam() -> Any:
    from keras_hub.src.models.sam.sam_mask_decoder import SAMMaskDecoder
    from keras_hub.src.models.sam.sam_prompt_encoder import SAMPromptEncoder

    return hub.SAMBackbone(
        image_encoder=_vit_det(2),
        prompt_encoder=SAMPromptEncoder(
            hidden_size=8,
            image_embedding_size=(2, 2),
            input_image_size=(32, 32),
            mask_in_channels=4,
        ),
        mask_decoder=SAMMaskDecoder(
            num_layers=1,
            hidden_size=8,
            intermediate_dim=8,
            num_heads=2,
            embedding_dim=8,
            num_multimask_outputs=2,
            iou_head_depth=1,
            iou_head_hidden_dim=4,
        ),
    )


def _vit_det(layers: int) -> Any:
    return hub.ViTDetBackbone(
        hidden_size=8,
        num_layers=layers,
        intermediate_dim=8,
        num_heads=2,
        global_attention_layer_indices=[1],
        image_shape=IMAGE,
        patch_size=16,
        num_output_channels=8,
        window_size=2,
    )


def _d_fine() -> Any:
    backbone = hub.HGNetV2Backbone(
        stem_channels=[3, 8, 8],
        stackwise_stage_filters=[[8, 8, 16, 1, 1, 3], [16, 8, 32, 1, 1, 3]],
        apply_downsample=[False, True],
        use_lightweight_conv_block=[False, False],
        depths=[1, 1],
        hidden_sizes=[16, 32],
        embedding_size=8,
        use_learnable_affine_block=True,
        hidden_act="relu",
        image_shape=(None, None, 3),
        out_features=["stage1", "stage2"],
    )
    return hub.DFineBackbone(
        backbone=backbone,
        decoder_in_channels=[16, 16],
        encoder_hidden_dim=16,
        num_denoising=10,
        num_labels=4,
        hidden_dim=16,
        learn_initial_query=False,
        num_queries=10,
        anchor_image_size=(32, 32),
        feat_strides=[4, 8],
        num_feature_levels=2,
        encoder_in_channels=[16, 32],
        encode_proj_layers=[1],
        num_attention_heads=2,
        encoder_ffn_dim=32,
        num_encoder_layers=1,
        hidden_expansion=0.5,
        depth_multiplier=0.5,
        eval_idx=-1,
        num_decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        decoder_n_points=[2, 2],
        lqe_hidden_dim=16,
        num_lqe_layers=2,
        out_features=["stage1", "stage2"],
        image_shape=(32, 32, 3),
        seed=0,
    )


def _gemma3n() -> Any:
    from keras_hub.src.models.gemma3n.gemma3n_audio_encoder import Gemma3nAudioEncoder
    from keras_hub.src.models.mobilenetv5.mobilenetv5_builder import convert_arch_def_to_stackwise

    vision = hub.MobileNetV5Backbone(
        **convert_arch_def_to_stackwise([["er_r1_k3_s1_e1_c8"]]),
        num_features=4,
        image_shape=IMAGE,
        use_msfa=False,
    )
    audio = Gemma3nAudioEncoder(
        hidden_size=4,
        input_feat_size=16,
        sscp_conv_channel_size=[2, 4],
        sscp_conv_kernel_size=[(1, 1), (1, 1)],
        sscp_conv_stride_size=[(2, 2), (2, 2)],
        sscp_conv_group_norm_eps=1e-5,
        num_hidden_layers=1,
        rms_norm_eps=1e-6,
        gradient_clipping=1.0,
        residual_weight=0.5,
        num_attention_heads=1,
        attention_chunk_size=2,
        num_attention_context_right=1,
        num_attention_context_left=1,
        attention_logit_cap=50.0,
        conv_kernel_size=3,
        reduction_factor=1,
    )
    return hub.Gemma3nBackbone(
        text_vocab_size=VOCABULARY,
        text_hidden_size=4,
        num_hidden_layers=2,
        pad_token_id=0,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=[8, 8],
        hidden_activation="gelu_approximate",
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=2,
        rope_theta=10000.0,
        max_position_embeddings=TOKENS,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=2,
        altup_num_inputs=2,
        laurel_rank=1,
        vision_encoder_config=vision.get_config(),
        vision_hidden_size=8,
        audio_encoder_config=audio.get_config(),
        audio_hidden_size=4,
    )


def _mobilenet_v5() -> Any:
    from keras_hub.src.models.mobilenetv5.mobilenetv5_builder import convert_arch_def_to_stackwise

    blocks = [["er_r1_k3_s1_e1_c8"], ["mqa_r1_k3_h2_s1_d4_c8", "mqa_r1_k3_h2_s2_d4_c8"]]
    return hub.MobileNetV5Backbone(
        **convert_arch_def_to_stackwise(blocks),
        num_features=4,
        image_shape=(16, 16, 3),
        use_msfa=False,
        stem_size=8,
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "AlbertBackbone": lambda: hub.AlbertBackbone(**_SHORT, embedding_dim=8),
    "BLIP2Backbone": _blip2,
    "BartBackbone": lambda: hub.BartBackbone(**_SHORT),
    "BertBackbone": lambda: hub.BertBackbone(**_SHORT),
    "BloomBackbone": lambda: hub.BloomBackbone(**_HEADS),
    "CLIPBackbone": lambda: hub.CLIPBackbone(
        **_pair(hub.CLIPTextEncoder, hub.CLIPVisionEncoder, projection_dim=8)
    ),
    "DFineBackbone": _d_fine,
    "DINOV2Backbone": lambda: hub.DINOV2Backbone(
        **_PATCHES, hidden_dim=8, intermediate_dim=8, position_embedding_shape=IMAGE
    ),
    "DINOV3Backbone": lambda: hub.DINOV3Backbone(**_PATCHES, hidden_dim=8, intermediate_dim=8),
    "DebertaV3Backbone": lambda: hub.DebertaV3Backbone(**_SHORT, bucket_size=4),
    "DeiTBackbone": lambda: hub.DeiTBackbone(**_PATCHES, hidden_dim=8, intermediate_dim=8),
    "DepthAnythingBackbone": lambda: hub.DepthAnythingBackbone(
        image_encoder=hub.DINOV2Backbone(
            **{**_PATCHES, "num_layers": 4, "patch_size": 4},
            hidden_dim=8,
            intermediate_dim=8,
            position_embedding_shape=IMAGE,
            apply_layernorm=True,
            name="image_encoder",
        ),
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=[4, 4, 4, 4],
        fusion_hidden_dim=4,
        head_hidden_dim=4,
        head_in_index=-1,
        feature_keys=["stage1", "stage2", "stage3", "stage4"],
    ),
    "DistilBertBackbone": lambda: hub.DistilBertBackbone(**_SHORT),
    "ESMBackbone": lambda: hub.ESMBackbone(**_HEADS),
    "EdRecBackbone": lambda: hub.EdRecBackbone(
        vocab_size=VOCABULARY,
        num_layers_enc=1,
        num_layers_dec=1,
        hidden_dim=8,
        intermediate_dim=8,
        num_heads=2,
    ),
    "ElectraBackbone": lambda: hub.ElectraBackbone(
        VOCABULARY, 1, 2, 16, 8, 8, max_sequence_length=TOKENS
    ),
    "FalconBackbone": lambda: hub.FalconBackbone(**_TEXT, num_attention_heads=2),
    "FluxBackbone": lambda: hub.FluxBackbone(
        input_channels=8,
        hidden_size=32,
        mlp_ratio=1.0,
        num_heads=2,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[4, 6, 6],
        theta=10_000,
        use_bias=True,
        guidance_embed=True,
        image_shape=(4, 8),
        text_shape=(3, 8),
        image_ids_shape=(4, 3),
        text_ids_shape=(3, 3),
        y_shape=(8,),
    ),
    "GPT2Backbone": lambda: hub.GPT2Backbone(**_SHORT),
    "GPTNeoXBackbone": lambda: hub.GPTNeoXBackbone(**_SHORT),
    "Gemma3Backbone": lambda: hub.Gemma3Backbone(
        **{**_GROUPED, "num_layers": 6},
        image_size=16,
        head_dim=4,
        use_sliding_window_attention=True,
        sliding_window_size=2,
        attention_logit_soft_cap=50.0,
        vision_encoder=hub.Gemma3VisionEncoder(16, 4, 2, 8, 1, 8, 16, pool_size=2),
    ),
    "Gemma3nBackbone": _gemma3n,
    "Gemma4Backbone": lambda: hub.Gemma4Backbone(
        **_GROUPED,
        image_size=16,
        head_dim=4,
        sliding_window_size=2,
        vision_encoder=hub.Gemma4VisionEncoder(
            16, 4, 2, 8, 1, 8, 4, 16, num_key_value_heads=2, pool_size=2
        ),
    ),
    "GemmaBackbone": lambda: hub.GemmaBackbone(
        **{**_GROUPED, "num_layers": 2},
        head_dim=4,
        use_sliding_window_attention=True,
        sliding_window_size=2,
        attention_logit_soft_cap=50.0,
    ),
    "GptOssBackbone": lambda: hub.GptOssBackbone(
        **{**_GROUPED, "num_layers": 2}, **_EXPERTS, sliding_window=2
    ),
    "Llama3Backbone": lambda: hub.Llama3Backbone(**_GROUPED),
    "LlamaBackbone": lambda: hub.LlamaBackbone(**_GROUPED),
    "MetaCLIP2Backbone": lambda: hub.MetaCLIP2Backbone(
        **_pair(hub.MetaCLIP2TextEncoder, hub.MetaCLIP2VisionEncoder, projection_dim=8)
    ),
    "MiTBackbone": _mit,
    "MistralBackbone": lambda: hub.MistralBackbone(**_GROUPED, sliding_window=2),
    "MixtralBackbone": lambda: hub.MixtralBackbone(**_GROUPED, **_EXPERTS, sliding_window=2),
    "MobileNetV5Backbone": _mobilenet_v5,
    "MoonshineBackbone": lambda: hub.MoonshineBackbone(
        vocabulary_size=VOCABULARY,
        filter_dim=32,
        encoder_num_layers=1,
        decoder_num_layers=1,
        hidden_dim=32,
        intermediate_dim=64,
        encoder_num_heads=4,
        decoder_num_heads=4,
    ),
    "OPTBackbone": lambda: hub.OPTBackbone(**_SHORT),
    "PARSeqBackbone": lambda: hub.PARSeqBackbone(
        image_encoder=hub.ViTBackbone(
            **_PATCHES, hidden_dim=8, mlp_dim=8, use_class_token=False, name="image_encoder"
        ),
        vocabulary_size=VOCABULARY,
        max_label_length=TOKENS,
        decoder_hidden_dim=8,
        num_decoder_layers=1,
        num_decoder_heads=2,
        decoder_mlp_dim=8,
    ),
    "PaliGemmaBackbone": lambda: hub.PaliGemmaBackbone(
        **_GROUPED,
        image_size=16,
        head_dim=4,
        vit_patch_size=4,
        vit_num_layers=1,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_intermediate_dim=8,
    ),
    "Phi3Backbone": lambda: hub.Phi3Backbone(**_GROUPED),
    "Qwen3Backbone": lambda: hub.Qwen3Backbone(**_GROUPED, head_dim=4, sliding_window_size=2),
    "Qwen3MoeBackbone": lambda: hub.Qwen3MoeBackbone(**_MOE, head_dim=4),
    "Qwen3_5Backbone": lambda: hub.Qwen3_5Backbone(
        **{**_GROUPED, "num_layers": 2}, head_dim=8, **_LINEAR
    ),
    "Qwen3_5MoeBackbone": lambda: hub.Qwen3_5MoeBackbone(
        **{key: value for key, value in _MOE.items() if key != "intermediate_dim"}
        | {"num_layers": 2},
        shared_expert_intermediate_size=8,
        head_dim=8,
        **_LINEAR,
    ),
    "QwenBackbone": lambda: hub.QwenBackbone(
        **_GROUPED, use_sliding_window_attention=True, sliding_window_size=2
    ),
    "QwenMoeBackbone": lambda: hub.QwenMoeBackbone(**_MOE, shared_expert_intermediate_dim=8),
    "RobertaBackbone": lambda: hub.RobertaBackbone(**_SHORT),
    "RoformerV2Backbone": lambda: hub.RoformerV2Backbone(**_HEADS, head_size=8),
    "SAMBackbone": _sam,
    "SegFormerBackbone": lambda: hub.SegFormerBackbone(image_encoder=_mit(), projection_filters=8),
    "SigLIPBackbone": lambda: hub.SigLIPBackbone(
        **_pair(hub.SigLIPTextEncoder, hub.SigLIPVisionEncoder)
    ),
    "SmolLM3Backbone": lambda: hub.SmolLM3Backbone(
        vocabulary_size=VOCABULARY,
        hidden_dim=16,
        intermediate_dim=8,
        num_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=False,
        attention_dropout=0.0,
        rope_layer_enabled_list=[True],
        layer_types=["attention"],
        mlp_bias=False,
        layer_norm_epsilon=1e-5,
        max_position_embeddings=TOKENS,
        rope_theta=10000.0,
        partial_rotary_factor=1.0,
    ),
    "SwinTransformerBackbone": lambda: hub.SwinTransformerBackbone(
        image_shape=IMAGE, embed_dim=8, depths=(2,), num_heads=(2,), window_size=4
    ),
    "T5Backbone": lambda: hub.T5Backbone(**_HEADS),
    "T5Gemma2Backbone": lambda: hub.T5Gemma2Backbone(**_T5_GEMMA),
    "T5GemmaBackbone": lambda: hub.T5GemmaBackbone(**_T5_GEMMA),
    "ViTBackbone": lambda: hub.ViTBackbone(**_PATCHES, hidden_dim=8, mlp_dim=8),
    "ViTDetBackbone": lambda: _vit_det(2),
    "VideoPrismBackbone": lambda: hub.VideoPrismBackbone(
        num_frames=2,
        patch_size=16,
        hidden_dim=16,
        intermediate_dim=8,
        num_heads=2,
        num_spatial_layers=1,
        num_temporal_layers=1,
        num_auxiliary_layers=1,
        image_shape=IMAGE,
        vocabulary_size=VOCABULARY,
        num_text_layers=1,
    ),
    "WhisperBackbone": lambda: hub.WhisperBackbone(
        **_HEADS, max_encoder_sequence_length=TOKENS, max_decoder_sequence_length=TOKENS
    ),
    "XLMRobertaBackbone": lambda: hub.XLMRobertaBackbone(**_SHORT),
    "XLNetBackbone": lambda: hub.XLNetBackbone(**_HEADS),
}
"""Backbones with attention, by name."""


LENGTHS = {
    "encoder_input_values": [AUDIO],
    "images": [1],
    "masks": [8, 8, 8],
    "pixel_values": [1, 16, 48],
    "pixel_position_ids": [1, 16],
    "vision_indices": [4],
}
"""The lengths of free axes of other inputs than texts."""


def shape_of(name: str, shape: Sequence[int | None], free_axes: int = TOKENS) -> tuple[int, ...]:
    """The shape of one sample of an input, with lengths for its free axes."""
    free = iter(LENGTHS.get(name, [free_axes] * len(shape)))
    return tuple(next(free) if size is None else size for size in shape)


VALUES = {
    "segment_ids": np.arange(TOKENS) % 2,
    "vision_indices": np.arange(4),
    "pixel_position_ids": np.stack(np.divmod(np.arange(16), 4), axis=-1),
    "position_ids": np.arange(TOKENS),
    "vision_mask": np.arange(TOKENS) < 4,
    "response_mask": np.arange(TOKENS) >= 4,
}


def build(name: str) -> Any:
    """Build a backbone whose weights are large enough for attention to be far from uniform."""
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]()
    random = np.random.default_rng(0)
    model.set_weights(
        [
            abs(random.normal(scale=0.4, size=w.shape))
            if "variance" in w.path
            else random.normal(scale=0.4, size=w.shape)
            for w in model.weights
        ]
    )
    return model


def fixed(backbone: Any) -> Any:
    """The backbone as a model of texts of one length."""
    inputs = {
        one.name: keras.Input(shape_of(one.name, one.shape[1:]), dtype=one.dtype, name=one.name)
        for one in backbone.inputs
    }
    return keras.Model(inputs, backbone(inputs))


def inputs_of(specs: Sequence[InputSpec]) -> dict[str, Array]:
    """Two samples for the inputs of a model, the second one padded."""
    random = np.random.default_rng(1)
    names = {spec.name for spec in specs}
    found: dict[str, Array] = {}
    for spec in specs:
        audio = spec.name == "encoder_padding_mask" and "encoder_input_values" in names
        shape = shape_of(spec.name, spec.shape, AUDIO if audio else TOKENS)
        if spec.name in VALUES:
            value = np.broadcast_to(VALUES[spec.name], (2, *shape))
        elif "mask" in spec.name and len(shape) == 1:
            value = np.ones((2, *shape))
            value[1, shape[0] * REAL // TOKENS :] = 0
        elif spec.dtype.startswith("int"):
            value = random.integers(1, VOCABULARY, (2, *shape))
            value[1, REAL:] *= spec.name != "token_ids"  # its padding is 0
        else:
            value = random.normal(size=(2, *shape))
        found[spec.name] = value.astype(spec.dtype)
    return found
