"""The test network as a model of transformers, which two of the tools demand for what they store."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel

from tests.checkpoint_network import Network, network


class Config(PretrainedConfig):
    model_type = "network"


class TransformersNetwork(PreTrainedModel):
    config_class = Config
    main_input_name = "ids"

    def __init__(self, config: Config):
        super().__init__(config)
        for name, child in network().named_children():
            self.add_module(name, child)
        self.post_init()

    forward = Network.forward


def transformers_network() -> TransformersNetwork:
    model = TransformersNetwork(Config())
    model.load_state_dict(network().state_dict())  # post_init draws weights anew
    return model.eval().requires_grad_(False)
