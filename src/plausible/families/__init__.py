"""The families, a line each: name and where it lives. Nothing is imported until it is asked for."""

FAMILIES = {
    "independent": "direct.independent:Independent",
    "gaussian": "direct.gaussian:Gaussian",
    "histogram": "direct.histogram:Histogram",
    "kernel_density": "direct.kernel_density:KernelDensity",
    "knn_density": "direct.knn_density:KNNDensity",
    "mixture": "direct.mixture:Mixture",
    "basis": "direct.basis:Basis",
    "named_law": "direct.named_law:NamedLaw",
    "naive_bayes": "direct.naive_bayes:NaiveBayes",
    "bayes_net": "direct.bayes_net:BayesNet",
    "context_table": "direct.context_table:ContextTable",
    "neural_cdf": "direct.neural_cdf:NeuralCDF",
    "fvsbn": "autoregressive.fvsbn:FVSBN",
    "nade": "autoregressive.nade:NADE",
    "orderless_nade": "autoregressive.orderless_nade:OrderlessNADE",
    "markov": "direct.markov:Markov",
    "hmm": "direct.hmm:HMM",
    "made": "autoregressive.made:MADE",
    "transformer": "autoregressive.transformer:Transformer",
    "rnn": "autoregressive.rnn:RNN",
    "wavenet": "autoregressive.wavenet:WaveNet",
    "pixel_cnn": "autoregressive.pixel_cnn:PixelCNN",
    "pixel_rnn": "autoregressive.pixel_rnn:PixelRNN",
    "coupling_flow": "flow.coupling:CouplingFlow",
    "vae": "latent.vae:VAE",
    "diffusion": "diffusion.denoising:Diffusion",
    "gan": "adversarial.gan:GAN",
}

# Files of other programs that hold a fitted model: suffix -> the module whose `read` and `write` know them.
FORMATS = {
    ".bif": "direct.bif",
}
