// Nothing: what counts is the library's name and what it depends on; see CMakeLists.txt.
