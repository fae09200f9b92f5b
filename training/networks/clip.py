"""The CLIP text encoder: causal pre-norm transformer with quick-GELU, pooled at the first end-of-text token."""
import torch
import torch.nn as nn


class ClipAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            p(x).view(batch, length, self.heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = (q @ k.transpose(2, 3)).float() * (width // self.heads) ** -0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1).to(v.dtype)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(batch, length, width))


class ClipMlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))


class ClipLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attn = ClipAttention(width, config["num_attention_heads"])
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = ClipMlp(width, config["intermediate_size"])

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.token_embedding = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.position_embedding = nn.Embedding(config["max_position_embeddings"], config["hidden_size"])

    def forward(self, ids):
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.token_embedding(ids) + self.position_embedding(positions)


class ClipEncoderStack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([ClipLayer(config) for _ in range(config["num_hidden_layers"])])


class ClipTextTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = ClipEmbeddings(config)
        self.encoder = ClipEncoderStack(config)
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"], eps=config["layer_norm_eps"])


class ClipTextModel(nn.Module):
    """`config` is text_encoder/config.json. The end-of-text token must be the vocabulary's last id."""

    def __init__(self, config):
        super().__init__()
        self.text_model = ClipTextTransformer(config)
        for layer in self.text_model.encoder.layers:
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.text_model.embeddings.token_embedding.weight, std=0.3)
        nn.init.normal_(self.text_model.embeddings.position_embedding.weight, std=0.1)

    def forward(self, ids):
        """ids (B, L) of at most 77 tokens: hidden states (B, L, C) and the pooled vector (B, C).

        Attention is causal, so what follows the first end-of-text token changes nothing in the pooled vector: training
        may cut the padding off.
        """
        model = self.text_model
        x = model.embeddings(ids)
        for layer in model.encoder.layers:
            x = layer(x)
        x = model.final_layer_norm(x)
        return x, x[torch.arange(len(ids), device=ids.device), ids.argmax(-1)]
