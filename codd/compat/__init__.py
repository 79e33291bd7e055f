"""Generation as other projects spell it, on the models of this package.

Examples:
    >>> demo = codd.CoupledModel.from_pretrained("demo")
    >>> prompt = demo.vocabulary.encode("Return ")[None]  # (1, 7)
    >>> options = {"steps": 1, "gen_length": 4, "block_length": 4}
    >>> codd.compat.llada.generate(demo, prompt, seed=0, **options).shape
    torch.Size([1, 11])
"""

from codd.compat import dream, llada

__all__ = ["dream", "llada"]
