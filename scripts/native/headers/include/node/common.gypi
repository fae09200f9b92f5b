# node-gyp includes this file from the folder named by nodedir, and downloads Node's headers when none is named. The addon is
# built by CMake against the headers of node-api-headers, so there is nothing to set and nothing to download.
{}
