"""What runs inside a pod: standard library and obstore, nothing else of byok8s.

A pod starts with `byok8s.worker.plain`. What it has to do stands in the environment variable
BYOK8S_JOB (see byok8s.worker.spec); where the bucket is, in BYOK8S_S3; credentials and the user's
`envvars:` lie in files of the run's Secret. How it went goes into the termination message, which
reaches the leader with the watch and costs no call.
"""
