"""The pipeline's parts over HTTP: generator and judges that run as services. No torch."""
