// Explains a picture with a graph: prints the class and its probability, and writes Grad-CAM as a grey picture.
//
//     explain GRAPH.onnx PICTURE.ppm MAP.pgm [CLASS]
//
// The picture is resized as the graph's metadata say, by Pillow's bilinear filter.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <onnxruntime_cxx_api.h>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

struct Picture {
    int width, height;
    std::vector<float> pixels;  // rows of RGB, 0 to 255
};

Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int width = 0, height = 0, most = 0;
    if (!(file >> kind >> width >> height >> most) || kind != "P6" || most != 255 || width < 1 || height < 1)
        throw std::runtime_error(path + " is no picture; valid are PPM files (P6) of 8 bits, without comments");
    file.get();
    std::string bytes(size_t(width) * height * 3, 0);
    if (!file.read(bytes.data(), bytes.size())) throw std::runtime_error(path + " is truncated");
    Picture picture{width, height, std::vector<float>(bytes.size())};
    std::transform(bytes.begin(), bytes.end(), picture.pixels.begin(), [](char byte) { return float(uint8_t(byte)); });
    return picture;
}

// Resizes one side of a picture to a length, and turns the picture, so that the second call resizes the other side.
Picture resized_and_turned(const Picture& from, int length) {
    Picture to{from.height, length, std::vector<float>(size_t(length) * from.height * 3)};
    const double scale = double(from.width) / length, reach = std::max(scale, 1.0);
    for (int x = 0; x < length; x++) {
        const double centre = (x + 0.5) * scale;
        const int begin = std::max(0, int(centre - reach + 0.5)), end = std::min(from.width, int(centre + reach + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int k = begin; k < end; k++) {
            weights.push_back(std::max(0.0, 1 - std::abs((k - centre + 0.5) / reach)));
            sum += weights.back();
        }
        for (int y = 0; y < from.height; y++)
            for (int band = 0; band < 3; band++) {
                double value = 0;
                for (int k = begin; k < end; k++) value += weights[k - begin] * from.pixels[(size_t(y) * from.width + k) * 3 + band];
                to.pixels[(size_t(x) * from.height + y) * 3 + band] = std::round(value / sum);
            }
    }
    return to;
}

// The numbers of a field of the metadata's JSON.
std::vector<float> numbers(const std::string& json, const std::string& name) {
    std::smatch found;
    if (!std::regex_search(json, found, std::regex("\"" + name + "\": (\\[[^\\]]*\\]|[0-9.e-]+)")))
        throw std::runtime_error("the graph does not say its " + name + "; make it with `make explanation`");
    std::vector<float> values;
    const std::string text = found[1];
    for (std::sregex_iterator at(text.begin(), text.end(), std::regex("[-0-9.e]+")), end; at != end; ++at)
        values.push_back(std::stof(at->str()));
    return values;
}

int explain(const std::string& graph, const std::string& picture_path, const std::string& map_path, int64_t target) {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
    Ort::Session session(env, graph.c_str(), Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions memory;
    const Ort::ModelMetadata metadata = session.GetModelMetadata();
    const auto said = [&](const char* name) {
        const auto value = metadata.LookupCustomMetadataMapAllocated(name, memory);
        return std::string(value ? value.get() : "");
    };
    const std::string how = said("preprocessing"), labels = said("labels");
    const auto size = numbers(how, "crop_size"), resize = numbers(how, "resize_size"), mean = numbers(how, "mean"), std = numbers(how, "std");
    if (how.find("\"bilinear\"") == std::string::npos || how.find("\"crop_first\": true") != std::string::npos || size.size() > 1 || mean.size() != 3)
        throw std::runtime_error("this program resizes bilinearly, to squares of RGB, and crops afterwards; the graph wants " + how);
    const int side = size[0], shorter = resize[0];

    const Picture upload = read_ppm(picture_path);
    const bool tall = upload.height > upload.width;
    const int rows = tall ? shorter * int64_t(upload.height) / upload.width : shorter;
    const int columns = tall ? shorter : shorter * int64_t(upload.width) / upload.height;
    const Picture seen = resized_and_turned(resized_and_turned(upload, columns), rows);
    const int top = std::nearbyint((rows - side) / 2.0), left = std::nearbyint((columns - side) / 2.0);
    std::vector<float> input(3 * size_t(side) * side);
    for (int band = 0; band < 3; band++)
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++)
                input[(size_t(band) * side + y) * side + x] = (seen.pixels[(size_t(y + top) * columns + x + left) * 3 + band] / 255 - mean[band]) / std[band];

    const auto place = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const int64_t shape[] = {1, 3, side, side}, one[] = {1};
    Ort::Value feeds[] = {Ort::Value::CreateTensor<float>(place, input.data(), input.size(), shape, 4),
                          Ort::Value::CreateTensor<int64_t>(place, &target, 1, one, 1)};
    const char *inputs[] = {"input", "target"}, *outputs[] = {"logits", "gradcam"};
    const auto found = session.Run(Ort::RunOptions(), inputs, feeds, 2, outputs, 2);

    const auto cells = found[1].GetTensorTypeAndShapeInfo().GetShape();
    const size_t classes = found[0].GetTensorTypeAndShapeInfo().GetElementCount(), count = cells[1] * cells[2];
    const float *logits = found[0].GetTensorData<float>(), *map = found[1].GetTensorData<float>();
    const size_t chosen = target < 0 ? std::max_element(logits, logits + classes) - logits : target;
    const double most = *std::max_element(logits, logits + classes);
    double sum = 0;
    for (size_t k = 0; k < classes; k++) sum += std::exp(logits[k] - most);
    std::cout << "class " << chosen << ", probability " << std::exp(logits[chosen] - most) / sum << ", of " << labels << "\n";
    const auto [low, high] = std::minmax_element(map, map + count);
    std::ofstream file(map_path, std::ios::binary);
    file << "P5\n" << cells[2] << " " << cells[1] << "\n255\n";
    for (size_t k = 0; k < count; k++) file.put(char(std::lround(255 * (map[k] - *low) / (1e-7f + *high - *low))));
    return file.flush() ? 0 : throw std::runtime_error(map_path + " cannot be written");
}

int main(int count, char** said) try {
    if (count < 4 || count > 5) throw std::runtime_error("explain GRAPH.onnx PICTURE.ppm MAP.pgm [CLASS]");
    return explain(said[1], said[2], said[3], count == 5 ? std::stoll(said[4]) : -1);
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
}
