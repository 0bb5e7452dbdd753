"""Files that run without Clearsight: the code of folders that are not stock, and a script to open folders."""
