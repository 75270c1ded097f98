"""Where cells are rolled out: in this process, in processes of this machine, on a Ray cluster; one protocol."""
