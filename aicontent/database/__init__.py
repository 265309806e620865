"""What differs between kinds of databases, and the statements made for one."""
