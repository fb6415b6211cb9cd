//! A generator that does not see a failure proves nothing: a server that fails in every way is behind it here.
