"""Is DropAttention's gradient noisier than DropKey's? A study on LoRA's gradients at fixed weights.

``python studies/gradient_noise --help`` shows its settings. The result is in
docs/results/gradient_noise.md.
"""
