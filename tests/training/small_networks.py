"""Sizes of networks so small that a test can train one, by family, called as in config.json."""

ENCODER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}

SMALL = {
    "bert": {**ENCODER, "max_position_embeddings": 70},
    "roberta": {**ENCODER, "max_position_embeddings": 70},
    "electra": {**ENCODER, "max_position_embeddings": 70, "embedding_size": 16},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "llama": ENCODER,
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "transformer": {"d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "bart": {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 64,
    },
}
