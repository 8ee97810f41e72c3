"""Configuration of a model trained with Ashlar, for `transformers` with `trust_remote_code=True`.

`config.ashlar["spec"]` describes the network layer by layer; modeling_ashlar.py computes exactly what it says.
"""

from transformers import PretrainedConfig


class AshlarConfig(PretrainedConfig):
    model_type = "ashlar"

    def __init__(self, ashlar=None, **kwargs):
        self.ashlar = ashlar or {"spec": {"kind": "decoder", "stacks": []}}
        kwargs["use_cache"] = False  # every call computes the whole text
        super().__init__(**kwargs)

    @property
    def spec(self):
        return self.ashlar["spec"]
