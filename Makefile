# For developers: build both libraries into the source tree, without installing anything.
ARCHITECTURES ?= 90
extension:
	cmake -S . -B build -G Ninja -DCMAKE_INSTALL_PREFIX=. -DCMAKE_CUDA_ARCHITECTURES=$(ARCHITECTURES)
	cmake --build build
	cmake --install build
