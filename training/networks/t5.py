"""The T5 v1.1 encoder: RMS norms without bias, relative position bias in the first block, gated GELU, unscaled scores."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class T5Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        inverse_rms = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * (x.float() * inverse_rms)).to(x.dtype)


def relative_buckets(length, buckets, max_distance, device):
    """Bucket of (key position - query position), bidirectional: half the buckets for each sign, exact up to a quarter
    of them and logarithmic beyond (Raffel et al. 2020, section 2.1, as in the reference code)."""
    positions = torch.arange(length, device=device)
    distance = positions[None, :] - positions[:, None]
    half = buckets // 2
    exact = half // 2
    sign = (distance > 0).long() * half
    distance = distance.abs()
    log_ratio = torch.log(distance.float().clamp(min=1) / exact) / math.log(max_distance / exact)
    far = (exact + (log_ratio * (half - exact)).long()).clamp(max=half - 1)
    return sign + torch.where(distance < exact, distance, far)


class T5SelfAttention(nn.Module):
    def __init__(self, config, has_bias):
        super().__init__()
        width, self.heads, self.head_width = config["d_model"], config["num_heads"], config["d_kv"]
        inner = self.heads * self.head_width
        self.q = nn.Linear(width, inner, bias=False)
        self.k = nn.Linear(width, inner, bias=False)
        self.v = nn.Linear(width, inner, bias=False)
        self.o = nn.Linear(inner, width, bias=False)
        nn.init.normal_(self.q.weight, std=(width * self.head_width) ** -0.5)
        nn.init.normal_(self.k.weight, std=width**-0.5)
        nn.init.normal_(self.v.weight, std=width**-0.5)
        nn.init.normal_(self.o.weight, std=inner**-0.5)
        if has_bias:
            self.relative_attention_bias = nn.Embedding(config["relative_attention_num_buckets"], self.heads)
            nn.init.normal_(self.relative_attention_bias.weight, std=width**-0.5)

    def forward(self, x, bias):
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, self.heads, self.head_width).transpose(1, 2) for p in (self.q, self.k, self.v))
        weights = ((q @ k.transpose(2, 3)).float() + bias).softmax(-1).to(v.dtype)
        return self.o((weights @ v).transpose(1, 2).reshape(batch, length, -1))


class T5AttentionLayer(nn.Module):
    def __init__(self, config, has_bias):
        super().__init__()
        self.SelfAttention = T5SelfAttention(config, has_bias)
        self.layer_norm = T5Norm(config["d_model"], config["layer_norm_epsilon"])

    def forward(self, x, bias):
        return x + self.SelfAttention(self.layer_norm(x), bias)


class T5GatedMlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.wi_0 = nn.Linear(width, hidden, bias=False)
        self.wi_1 = nn.Linear(width, hidden, bias=False)
        self.wo = nn.Linear(hidden, width, bias=False)
        nn.init.normal_(self.wi_0.weight, std=width**-0.5)
        nn.init.normal_(self.wi_1.weight, std=width**-0.5)
        nn.init.normal_(self.wo.weight, std=hidden**-0.5)

    def forward(self, x):
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class T5MlpLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.DenseReluDense = T5GatedMlp(config["d_model"], config["d_ff"])
        self.layer_norm = T5Norm(config["d_model"], config["layer_norm_epsilon"])

    def forward(self, x):
        return x + self.DenseReluDense(self.layer_norm(x))


class T5Block(nn.Module):
    def __init__(self, config, has_bias):
        super().__init__()
        self.layer = nn.ModuleList([T5AttentionLayer(config, has_bias), T5MlpLayer(config)])

    def forward(self, x, bias):
        return self.layer[1](self.layer[0](x, bias))


class T5Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.block = nn.ModuleList([T5Block(config, i == 0) for i in range(config["num_layers"])])
        self.final_layer_norm = T5Norm(config["d_model"], config["layer_norm_epsilon"])


class T5Encoder(nn.Module):
    """`config` is text_encoder_2/config.json."""

    def __init__(self, config):
        super().__init__()
        self.buckets = config["relative_attention_num_buckets"]
        self.max_distance = config["relative_attention_max_distance"]
        self.shared = nn.Embedding(config["vocab_size"], config["d_model"])
        self.encoder = T5Stack(config)

    def forward(self, ids):
        """ids (B, L), padding included and not masked, as FLUX calls it: hidden states (B, L, d_model)."""
        x = self.shared(ids)
        buckets = relative_buckets(ids.shape[1], self.buckets, self.max_distance, ids.device)
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        bias = table(buckets).permute(2, 0, 1)[None].float()
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)
