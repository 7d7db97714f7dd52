"""An HTTP server of one model. Needs the packages of the extra `serve`."""
