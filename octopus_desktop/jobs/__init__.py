"""The job package: what a job says of itself, its bytes, its review, and the rules it meets. No network, no torch.

``manifest.py`` — JobManifest, DataNeed, RunConfig: data only. ``toml.py`` — ``parse(text) -> JobManifest``, ``examine``
(all mistakes), ``apply_overrides(config, dict) -> RunConfig``. ``package.py`` — ``build(folder, out)``, ``sign(path,
key, author)``, ``verify(path) -> VerifiedPackage``, ``require_signature``, ``read_files``, ``unpack(path, folder)``.
``findings.py`` — ``find(files) -> [Finding]``, ``check_trainer(files, trainer)``. ``review.py`` — ``diff(old, new)``,
``summary(manifest, config, offer, fitting, model_bytes, policy)``. ``policy.py`` — ``Rule``, ``OfferFacts``,
``evaluate([(name, rule)], facts) -> Evaluation``. ``approval.py`` — what an approver signs. ``authors.py`` — an
author's signing key and federations. ``encodings.py`` — which encodings of updates there are, their parameters, sizes
and plain words.
"""
